-- The leader says which accounts run nowhere, and why: for people, nothing is decided by it.
-- KEYS leader, unplaced    ARGV holder|term, field, value, ...
-- Returns {NOTLEADER} or {OK}. Replaces all that was said before.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
redis.call('DEL', KEYS[2])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return {'OK'}
