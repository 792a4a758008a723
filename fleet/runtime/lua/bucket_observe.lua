-- The exchange told what this address has used in its clock window, whoever spent it: the fleet, or anything else behind it.
-- KEYS bucket    ARGV used, burst, window seconds, age: seconds since the call was sent that was answered with it, first (as in
--      bucket_take), since: the unknown bucket that the caller had heard of before it sent that call ("" = none)
-- Redis' clock judges the age: a call that was sent before this window, or so close to its beginning that the clocks'
-- difference may put it there, says nothing about this window. A figure only ever lowers what is left, except in a bucket that
-- does not know what was spent before (`since`): that one is raised to what is really left, once, by a call sent after it began
-- to count, so that the figure has all that was spent before; what it granted itself may be in it or not, and is counted again.
-- Returns {"0", left, since or ""}. Run twice it changes nothing more.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local used, burst, window, sent = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), now - tonumber(ARGV[4])
local first = tonumber(ARGV[5])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'since')
local tokens, at, since = tonumber(state[1]), tonumber(state[2]), state[3] or ''
local start = math.floor(now / window) * window
if not tokens or not at then
  tokens, since = first, first < burst and string.format('%.6f', now) or ''
elseif at < start then tokens, since = burst, '' end
local left = math.max(0, burst - used)
local certain = sent >= start + math.min(1.5, window / 10)
if since ~= '' and since == ARGV[6] and sent >= start and (certain or left > first) then
  tokens, since = math.max(0, tokens + left - first), ''
end
if certain and left < tokens then tokens = left end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now), 'burst', ARGV[2],
           'per_s', tostring(burst / window), 'since', since, 'clock_window', ARGV[3])
local need = math.ceil(window * 1000) + 60000
if redis.call('PTTL', KEYS[1]) < need then redis.call('PEXPIRE', KEYS[1], need) end
return {'0', string.format('%.6f', tokens), since}
