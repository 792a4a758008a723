-- The desired view of one worker. `own` is the truth (R1): an entry counts only while the record names this incarnation
-- and token, so that a view left behind by a former owner says nothing.
-- KEYS w, gen, d, own    ARGV slot, incarnation, known gen, known version
-- The record's source address, if it has one, follows the entry: token|state|address.
-- Returns {OK, gen, version, "same"} or {OK, gen, version, "full", account, entry, ...}, {FENCED} or {UNKNOWN}. Writes nothing.
if redis.call('HGET', KEYS[1], 'fenced_inc') == ARGV[2] then return {'FENCED'} end
local inc = redis.call('HGET', KEYS[1], 'inc')
if not inc then return {'UNKNOWN'} end
if inc ~= ARGV[2] then return {'FENCED'} end
local gen = redis.call('GET', KEYS[2]) or ''
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if gen == ARGV[3] and version == ARGV[4] then return {'OK', gen, version, 'same'} end
local reply = {'OK', gen, version, 'full'}
local prefix = ARGV[1] .. '|' .. ARGV[2] .. '|'
local view = redis.call('HGETALL', KEYS[3])
for i = 1, #view, 2 do
  local own = redis.call('HGET', KEYS[4], view[i])
  if own and string.sub(own, 1, #prefix + #view[i + 1] + 1) == prefix .. view[i + 1] .. '|' then
    reply[#reply + 1] = view[i]
    local address = string.match(own, '^[^|]*|[^|]*|[^|]*|[^|]*|[^|]*|[^|]*|([^|]+)$')
    reply[#reply + 1] = address and (view[i + 1] .. '|' .. address) or view[i + 1]
  end
end
return reply
