-- A worker says who it is. A new incarnation that holds the slot's flock proves the former one dead (R8): that of the same lock
-- file. One under another lock (a second host by that name, another run directory) proves nothing: it takes the slot over only from
-- who has said goodbye, was fenced, or has not beaten since the beat that the newcomer has watched for longer than a lease after it
-- had fenced it in the witness.
-- Its life is numbered, upwards in any one history of the slot: by the wall clock, or one more than the former where that is less.
-- KEYS workers, w, d, r    ARGV slot, incarnation, seq, life, lock ("" = of no known one), watched beat, field, value, ...
-- An operator's wish to drain outlives a lease that was lost: it ends with the process, which an incarnation names before its "-".
-- The time of this beat is Redis' own (heartbeat).
-- Returns {OK, life}, {FENCED} or {HELD, beat}. Run twice: the second changes only the time, and says the same.
if redis.call('HGET', KEYS[2], 'fenced_inc') == ARGV[2] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[2], 'inc')
local function process(incarnation) return string.match(incarnation, '^[^-]*') end
if inc ~= ARGV[2] then
  local lock = redis.call('HGET', KEYS[2], 'lock') or ''
  if inc and lock ~= '' and ARGV[5] ~= '' and lock ~= ARGV[5] then
    local beat = inc .. '|' .. (redis.call('HGET', KEYS[2], 'seq') or '0')
    local left = redis.call('HGET', KEYS[2], 'state') == 'gone' or redis.call('HGET', KEYS[2], 'fenced_inc') == inc
    if not left and beat ~= ARGV[6] then return {'HELD', beat} end
  end
  if inc then
    redis.call('DEL', KEYS[3])
    if process(inc) ~= process(ARGV[2]) then redis.call('HDEL', KEYS[2], 'drain') end
  end
  redis.call('DEL', KEYS[4])
  redis.call('HINCRBY', KEYS[2], 'version', 1)
  local life = math.max((tonumber(redis.call('HGET', KEYS[2], 'life')) or 0) + 1, tonumber(ARGV[4]))
  redis.call('HSET', KEYS[2], 'inc', ARGV[2], 'seq', ARGV[3], 'life', string.format('%.0f', life), 'lock', ARGV[5])
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'beat_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
for i = 7, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('SADD', KEYS[1], ARGV[1])
return {'OK', redis.call('HGET', KEYS[2], 'life') or '0'}
