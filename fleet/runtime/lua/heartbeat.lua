-- One beat: moves the counter observers time (R3) and renews the lease (R5a) if this incarnation is still the slot's.
-- The time of the beat is Redis' own: an operator's view compares it with Redis' clock, so that no host's clock has a say in it.
-- KEYS w, gen    ARGV incarnation, seq, field, value, ...
-- Returns {OK, gen, version, drain, rotate, former seq}, {FENCED}, {FENCED, gen, life of who holds the slot} or {UNKNOWN} (the
-- record is gone: data loss).
if redis.call('HGET', KEYS[1], 'fenced_inc') == ARGV[1] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[1], 'inc')
if not inc then return {'UNKNOWN'} end
if inc ~= ARGV[1] then return {'FENCED', redis.call('GET', KEYS[2]) or '', redis.call('HGET', KEYS[1], 'life') or '0'} end
local former = redis.call('HGET', KEYS[1], 'seq') or '0'
if tonumber(ARGV[2]) >= tonumber(former) then -- one that was overtaken by a later beat says nothing new
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'seq', ARGV[2], 'beat_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
  for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return {'OK', redis.call('GET', KEYS[2]) or '', redis.call('HGET', KEYS[1], 'version') or '0',
        redis.call('HGET', KEYS[1], 'drain') or '', redis.call('HGET', KEYS[1], 'rotate') or '', former}
