-- A leader that exits cleanly lets a standby take over at once.
-- KEYS leader    ARGV holder|term
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'OK'}
