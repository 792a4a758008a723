-- A worker uploads the states of its streams. The fleet's data paths do not depend on it; rebuild (R10) and the CLI read it.
-- KEYS w, r    ARGV incarnation, "full" | "delta", number of removed accounts, removed..., account, report, ...
-- Returns {OK}, {FENCED} or {UNKNOWN}. `full` replaces what was there.
if redis.call('HGET', KEYS[1], 'fenced_inc') == ARGV[1] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[1], 'inc')
if not inc then return {'UNKNOWN'} end
if inc ~= ARGV[1] then return {'FENCED'} end
if ARGV[2] == 'full' then redis.call('DEL', KEYS[2]) end
local removed = tonumber(ARGV[3])
for i = 4, 3 + removed do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = 4 + removed, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'reported', ARGV[1])
return {'OK'}
