-- Sliding window of one exchange host and egress address, shared by all processes: at most `burst` in ANY span of `window`
-- seconds, as a limit on attempts is to be understood where nothing says that it is counted by clock window.
-- KEYS bucket    ARGV amount, burst, average per second, 0, window seconds, reserve: what this taker leaves for urgent ones
-- The window is counted in 60 parts, the oldest of which stays whole until all of it has passed: never laxer than the limit.
-- The last tenth is given out evenly over the window, so that a single stream need not wait for a crowd's window to pass.
-- Returns {wait ms}: "0" = granted. Run twice it takes twice: stricter, never laxer. Blocks are set by bucket_take.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local amount, burst, window, reserve = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
local part = window / 60
local current = math.floor(now / part)
local flat = redis.call('HGETALL', KEYS[1])
local used, at, parts = 0, 0, {}
for i = 1, #flat, 2 do
  local index = tonumber(string.match(flat[i], '^s(%d+)$'))
  if index and index < current - 60 then redis.call('HDEL', KEYS[1], flat[i])
  elseif index then
    used = used + tonumber(flat[i + 1])
    parts[#parts + 1] = {index, tonumber(flat[i + 1])}
  elseif flat[i] == 'at' then at = tonumber(flat[i + 1])
  elseif flat[i] == 'blocked_until' and tonumber(flat[i + 1]) > now then
    return {tostring(math.ceil((tonumber(flat[i + 1]) - now) * 1000))}
  end
end
local free = math.floor(burst * 0.9)
if amount > burst - reserve then amount = burst - reserve end
local wait = 0
if used + amount + reserve > burst then
  table.sort(parts, function(a, b) return a[1] < b[1] end)
  local left = used
  for _, entry in ipairs(parts) do
    left = left - entry[2]
    wait = (entry[1] + 61) * part - now
    if left + amount + reserve <= burst then break end
  end
elseif used + amount > free and used > 0 and at <= now then
  wait = math.max(0, at + window / (burst - free) * amount - now)
end
if wait == 0 and amount > 0 then -- an amount of 0 only asks
  used = used + amount
  redis.call('HINCRBYFLOAT', KEYS[1], 's' .. string.format('%d', current), amount)
  redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', burst - used), 'burst', ARGV[2], 'per_s', ARGV[3], 'window', ARGV[5])
redis.call('PEXPIRE', KEYS[1], math.ceil(window * 1000) + 60000)
return {tostring(math.ceil(wait * 1000))}
