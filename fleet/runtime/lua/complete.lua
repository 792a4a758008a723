-- The rebuild is done (R10): the generation that was being built is ready, if these are still its data and nobody else leads.
-- KEYS leader, gen, ver    ARGV holder|term, id|building, id|ready
-- Returns {NOTLEADER}, {GEN} or {OK}. Run twice: the same.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
local gen = redis.call('GET', KEYS[2])
if gen == ARGV[3] then return {'OK'} end
if gen ~= ARGV[2] then return {'GEN'} end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('INCR', KEYS[3])
return {'OK'}
