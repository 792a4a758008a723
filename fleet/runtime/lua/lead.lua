-- Take or renew the leader's lease (R12). The term comes from Postgres; an older term than Redis has seen never leads.
-- KEYS leader, term    ARGV holder, term (20 digits), lease ms
-- Returns {OK}, {HELD, leader} (another holder) or {STALE, term}. Run twice: the lease is renewed twice.
local mine = ARGV[1] .. '|' .. ARGV[2]
local leader = redis.call('GET', KEYS[1])
if leader and string.sub(leader, 1, #ARGV[1] + 1) ~= ARGV[1] .. '|' then return {'HELD', leader} end
local term = redis.call('GET', KEYS[2])
if term and term > ARGV[2] then return {'STALE', term} end
redis.call('SET', KEYS[1], mine, 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[2])
return {'OK'}
