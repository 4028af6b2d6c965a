-- Lease one shard: one whose holder fell silent, else the next new one.
-- KEYS: the batch's 5, active, served.
-- ARGV: the lease's name, silence in ms (0 takes from living holders too), batch.
local lease = ARGV[1]
local meta = redis.call('HMGET', KEYS[1], 'state', 'priority', 'options')
local mine = redis.pcall('XPENDING', KEYS[2], GROUP, '-', '+', 1, lease)
if not meta[1] or mine.err then
  redis.call('ZREM', KEYS[6], ARGV[3])
  return {'GONE'}
end
if meta[1] == 'paused' then return {'NONE'} end
local entry, deliveries
if mine[1] then  -- the same call once more: its reply was lost on the way
  entry, deliveries = redis.call('XRANGE', KEYS[2], mine[1][1], mine[1][1])[1], mine[1][4]
elseif meta[1] == 'active' then
  redis.call('ZADD', KEYS[6], 'XX', score(meta[2], KEYS[7]), ARGV[3])
end
while not entry do
  local silent = redis.call('XPENDING', KEYS[2], GROUP, 'IDLE', ARGV[2], '-', '+', 1)[1]
  if not silent then break end
  entry, deliveries = redis.call('XCLAIM', KEYS[2], GROUP, lease, 0, silent[1])[1], silent[4] + 1
  if not entry then redis.call('XACK', KEYS[2], GROUP, silent[1]) end  -- somebody deleted it
  forget(silent[2])
end
if not entry and num_new() > 0 then
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, lease, 'COUNT', 1, 'STREAMS', KEYS[2], '>')
  if read then entry, deliveries = read[1][2][1], 1 end
end
if not entry then return {'NONE'} end
local fields = {}
for at = 1, #entry[2], 2 do fields[entry[2][at]] = entry[2][at + 1] end
local first, count = tonumber(fields.f), tonumber(fields.c)
local from = math.floor(first / 8)
local done = redis.call('GETRANGE', KEYS[4], from, math.floor((first + count - 1) / 8))
return {'SHARD', entry[1], tonumber(fields.d) + deliveries - 1, first, fields.b, done, meta[1], meta[3]}
