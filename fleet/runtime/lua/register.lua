-- A worker says who it is. A new incarnation of a slot proves the former one dead: it holds the slot's flock (R8).
-- Its life is numbered, upwards in any one history of the slot: by the wall clock, or one more than the former where that is less.
-- KEYS workers, w, d, r    ARGV slot, incarnation, seq, life, field, value, ...
-- Returns {OK, life} or {FENCED}. Run twice: the second changes nothing and says the same.
if redis.call('HGET', KEYS[2], 'fenced_inc') == ARGV[2] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[2], 'inc')
if inc ~= ARGV[2] then
  if inc then
    redis.call('DEL', KEYS[3])
    redis.call('HDEL', KEYS[2], 'drain')
  end
  redis.call('DEL', KEYS[4])
  redis.call('HINCRBY', KEYS[2], 'version', 1)
  local life = math.max((tonumber(redis.call('HGET', KEYS[2], 'life')) or 0) + 1, tonumber(ARGV[4]))
  redis.call('HSET', KEYS[2], 'inc', ARGV[2], 'seq', ARGV[3], 'life', string.format('%.0f', life))
end
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('SADD', KEYS[1], ARGV[1])
return {'OK', redis.call('HGET', KEYS[2], 'life') or '0'}
