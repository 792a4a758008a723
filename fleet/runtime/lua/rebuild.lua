-- The leader restores ownership after a loss of data (R10). `building` generations are obeyed by nobody.
-- KEYS leader, gen, own, ver, then w and d of each slot involved
-- ARGV holder|term, gen to set, channel prefix, number of slots, slot names..., then per record 4 values:
--   account, record, slot index, entry
-- A record replaces one under a lower token only; the view of its slot, which may be from another life, is made to agree. Without records, the slots named are asked to report anew. Returns {NOTLEADER} or {OK, number written}. Run twice: the same.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'NOTLEADER'} end
redis.call('SET', KEYS[2], ARGV[2])
local function token(record) return string.match(record, '^[^|]*|[^|]*|(%d+)|') or '' end
local function claim(record) return string.match(record, '^[^|]*|[^|]*|%d+|[^|]*|') end
local slots = tonumber(ARGV[4])
local written = 0
for i = 5 + slots, #ARGV, 4 do
  local index = tonumber(ARGV[i + 2])
  local now = redis.call('HGET', KEYS[3], ARGV[i])
  if not now or token(now) < token(ARGV[i + 1]) then
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    written = written + 1
    now = ARGV[i + 1]
  end
  if claim(now) == claim(ARGV[i + 1]) then redis.call('HSET', KEYS[4 + 2 * index], ARGV[i], ARGV[i + 3]) end
end
redis.call('INCR', KEYS[4])
for index = 1, slots do
  if #ARGV == 4 + slots then redis.call('HDEL', KEYS[3 + 2 * index], 'reported') end
  redis.call('HINCRBY', KEYS[3 + 2 * index], 'version', 1)
  redis.call('PUBLISH', ARGV[3] .. ARGV[4 + index], 'desired')
end
return {'OK', tostring(written)}
