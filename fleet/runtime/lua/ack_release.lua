-- Second phase of a revoke (R7): the worker has stopped and flushed these accounts, so nobody owns them any more. An account
-- that it is to run but no longer does, and cannot start under a token that was used, is given back the same way.
-- KEYS w, own, d, r, ver    ARGV slot, incarnation, account, token, account, token, ...
-- Returns {OK, number released}, {FENCED} or {UNKNOWN}. Only a record of exactly this ownership is removed.
if redis.call('HGET', KEYS[1], 'fenced_inc') == ARGV[2] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[1], 'inc')
if not inc then return {'UNKNOWN'} end
if inc ~= ARGV[2] then return {'FENCED'} end
local released = 0
for i = 3, #ARGV, 2 do
  local want = ARGV[1] .. '|' .. ARGV[2] .. '|' .. ARGV[i + 1] .. '|'
  local own = redis.call('HGET', KEYS[2], ARGV[i])
  if own and string.sub(own, 1, #want) == want then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
    released = released + 1
  end
end
if released > 0 then
  redis.call('INCR', KEYS[5])
  redis.call('HINCRBY', KEYS[1], 'version', 1)
end
return {'OK', tostring(released)}
