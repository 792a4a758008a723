-- Token bucket of one exchange host and egress address, shared by all processes; Redis' own clock refills it.
-- KEYS bucket    ARGV amount, burst, refill per second, block seconds (0 = take), window seconds (0 = refill steadily),
--      reserve: what this taker leaves for urgent ones, who leave nothing (0) and do not keep away from a window's edge,
--      first: what a bucket that Redis does not know (first start, FLUSHALL) begins with, where the exchange tells what was used
-- With a window, `burst` is what one clock window (UTC) may use, as exchanges count; nothing is granted close to a window's
-- edge, so that a call, the clocks' difference included, never lands in the neighbouring window. `since`: it is not known what was
-- spent in this window before then; bucket_observe ends that, or the next window. No reserve is kept meanwhile: somebody has to
-- call for the exchange to tell.
-- Returns {wait ms}: "0" = granted; with a window {wait ms, left, since or ""}. A block only ever lengthens. Run twice it takes twice: stricter, never laxer.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local amount, burst, per_s, block = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'blocked_until', 'since')
local tokens, at, blocked_until = tonumber(state[1]), tonumber(state[2]), tonumber(state[3]) or 0
if block > 0 then
  if now + block > blocked_until then blocked_until = now + block end
  redis.call('HSET', KEYS[1], 'blocked_until', string.format('%.6f', blocked_until))
  local left = redis.call('PTTL', KEYS[1])
  local need = math.ceil((blocked_until - now) * 1000) + 1000
  if left < need then redis.call('PEXPIRE', KEYS[1], need) end
  return {tostring(math.ceil((blocked_until - now) * 1000))}
end
if blocked_until > now then return {tostring(math.ceil((blocked_until - now) * 1000))} end
local window, reserve = tonumber(ARGV[5]) or 0, tonumber(ARGV[6]) or 0
if window > 0 then
  local guard = math.min(1.5, window / 10)
  local start = math.floor(now / window) * window
  local first, since = tonumber(ARGV[7]) or burst, state[4] or ''
  if not tokens or not at then
    tokens, since = first, first < burst and string.format('%.6f', now) or ''
  elseif at < start then tokens, since = burst, '' end
  if amount > burst - reserve then amount = burst - reserve end
  if reserve == 0 then guard = 0 end
  if since ~= '' then reserve = 0 end
  local wait = 0
  if now < start + guard then wait = start + guard - now
  elseif now > start + window - guard then wait = start + window + guard - now
  elseif tokens + 0.000001 < amount + reserve then
    wait = start + window + guard - now
    if since ~= '' then wait = math.min(wait, 0.5) end
  else tokens = tokens - amount end
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now),
             'burst', ARGV[2], 'per_s', ARGV[3], 'since', since, 'clock_window', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], math.ceil(window * 1000) + 60000)
  return {tostring(math.ceil(wait * 1000)), string.format('%.6f', tokens), since}
end
if not tokens or not at then tokens, at = burst, now end
if now > at then tokens = math.min(burst, tokens + (now - at) * per_s) end
if amount > burst - reserve then amount = burst - reserve end
local wait = 0
if tokens + 0.000001 >= amount + reserve then tokens = tokens - amount
else wait = math.ceil((amount + reserve - tokens) / per_s * 1000) end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now),
           'burst', ARGV[2], 'per_s', ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / per_s * 1000) + 60000)
return {tostring(wait)}
