-- The leader changes ownership: a batch of compare-and-set writes, each its own (R1, R2, R7).
-- KEYS leader, gen, own, ver, then w and d of each slot involved
-- ARGV holder|term, gen, channel prefix, number of slots, slot names..., then per operation 7 values:
--   account, expected record ("" = none), new record ("" = remove), slot index that gets the entry (0 = none),
--   its incarnation, the entry, slot index that loses the entry (0 = none)
-- Returns {NOTLEADER}, {GEN} or {OK, "1" | "0" per operation}. Run twice: an operation that is already done counts as done.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'GEN'} end
local slots = tonumber(ARGV[4])
local function w(index) return KEYS[3 + 2 * index] end
local function d(index) return KEYS[4 + 2 * index] end
local reply, touched, changed = {'OK'}, {}, false
for i = 5 + slots, #ARGV, 7 do
  local account, expected, new, to, inc, entry, from =
    ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5], tonumber(ARGV[i + 6])
  local now = redis.call('HGET', KEYS[3], account) or ''
  local alive = true
  if to > 0 then
    alive = redis.call('HGET', w(to), 'inc') == inc and redis.call('HGET', w(to), 'fenced_inc') ~= inc
  end
  if alive and (now == expected or now == new) then
    if new == '' then redis.call('HDEL', KEYS[3], account) else redis.call('HSET', KEYS[3], account, new) end
    if from > 0 and from ~= to then
      redis.call('HDEL', d(from), account)
      touched[from] = true
    end
    if to > 0 then
      redis.call('HSET', d(to), account, entry)
      touched[to] = true
    end
    if now ~= new then changed = true end
    reply[#reply + 1] = '1'
  else
    reply[#reply + 1] = '0'
  end
end
if changed then redis.call('INCR', KEYS[4]) end
for index = 1, slots do
  if touched[index] then
    redis.call('HINCRBY', w(index), 'version', 1)
    redis.call('PUBLISH', ARGV[3] .. ARGV[4 + index], 'desired')
  end
end
return reply
