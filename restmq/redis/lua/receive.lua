#!lua flags=allow-oom
-- Purpose: hand messages out under a lease, to several who ask in one turn.
-- Atomic: a message is ready or leased, and leased once; nobody else sees it until its lease ends.
-- KEYS: those of common.lua, and that of an idempotency key if one asks alone and has one: it holds
--       I7 epoch, and of each message I7 number of the lease, I7 id
-- ARGV: 2 how long somebody waits for more, ms (0: nobody), 3.. of each who asks: limit (1..1000), lease in ms
--       (below 0: the queue's, or if it has none so many without the sign)
-- Returns: {now ms, epoch, 1 if it must be called again for those who got nothing, ms after which to try again (0: when woken), then for
--           each: when its lease ends, ms, how many, I7 number of the lease and entry of each}; at most 1,000
--           messages or 1 MiB in all, and as many that are gone. A repeat gets what is still leased of what it got the first time, and nothing else.
check_types()
local now, waits = clock(), tonumber(ARGV[2])
local s = load_state()
-- jobs.lua stands here
local kept = KEYS[16] and call('GET', KEYS[16])
if kept and string.sub(kept, 1, 7) == pack('>I7', s.epoch) then
  local reply, ends = {text(now), text(s.epoch), 0, 0, 0, 0}, 0
  for i = 8, #kept, 14 do
    local number, id = unpack_bytes('>I7I7', kept, i)
    local record = call('HGET', J, text(id))
    local until_ms, leased = unpack_bytes('>I6I7', record or string.rep('\0', 14), 2)
    if record and leased == number and until_ms > now then
      ends = math.max(ends, until_ms)
      reply[#reply + 1] = string.sub(record, 8)
    end
  end
  reply[5], reply[6] = text(ends), #reply - 6
  return reply
end
local v = call('HMGET', Q, 'lease_ms', 'max_flight', 'receive_rate', 'rtat', 'st')
local complete = home(s, now)
save_state(s)
local again, wait_ms, room, usual = complete and 0 or 1, 0, MAX_MESSAGES, v[1] and tonumber(v[1])
if v[5] == '0' or not complete then room = 0 end
if v[2] then room = math.min(room, tonumber(v[2]) - call('ZCARD', X) - s.out) end
local rate, clock_of_rate = tonumber(v[3] or 0), tonumber(v[4] or 0)
if rate > 0 then
  local step = 1000 / rate
  clock_of_rate = math.max(clock_of_rate, now - math.max(100, step))
  local allowed = math.floor((now - clock_of_rate) / step + 1e-6)
  if allowed < 1 then wait_ms = math.ceil(clock_of_rate + step - now) end
  room = math.min(room, allowed)
end
local reply, left, size, expired, repeated = {text(now), text(s.epoch), again, 0}, room, 0, 0, 0
local records, leases, given, hungry, looked = {}, {}, {pack('>I7', s.epoch)}, false, 0
local number = tonumber(call('HGET', Q, 'leases') or 0)
for i = 3, #ARGV, 2 do
  local limit, lease = math.min(tonumber(ARGV[i]), left), tonumber(ARGV[i + 1])
  if lease < 0 then lease = usual or -lease end
  local at, count, due = #reply + 2, 0, text(now + lease)
  reply[at - 1], reply[at] = due, 0
  while count < limit and size < MAX_BYTES and looked < 2 * MAX_MESSAGES do
    local run, place = next_run(limit - count)
    if #run == 0 then break end
    take_run(place, #run)
    looked = looked + #run
    for _, e in ipairs(run) do
      if is_gone(e, now) then
        expired = expired + 1
      else
        local attempts, id = 1, text(entry_id(e))
        if string.byte(e, 20) == 255 then
          attempts = unpack_bytes('>I2', e, 21) + 1
          e = string.sub(e, 1, 20) .. pack('>I2', math.min(attempts, 65535)) .. string.sub(e, 23)
        else
          e = string.sub(e, 1, 19) .. '\255\0\1\0\0\0\0\0' .. string.sub(e, 20)
        end
        if attempts > 1 then repeated = repeated + 1 end
        number = number + 1
        local leased = pack('>I7', number)
        records[#records + 1], records[#records + 2] = id, 'l' .. pack('>I6', now + lease) .. leased .. e
        given[#given + 1] = leased .. string.sub(e, 1, 7)
        leases[#leases + 1], leases[#leases + 2] = due, id
        count, size = count + 1, size + #e
        reply[#reply + 1] = leased .. e
      end
    end
  end
  reply[at] = count
  left = left - count
  hungry = hungry or count == 0
  if KEYS[16] and count > 0 then call('SET', KEYS[16], table.concat(given), 'PX', text(lease)) end
end
each_slice('HSET', J, records, 2)
each_slice('ZADD', X, leases, 2)
if #records > 0 then call('HSET', Q, 'leases', text(number)) end
-- Who got nothing because this call did all that one may do, asks again.
if hungry and (looked >= 2 * MAX_MESSAGES or size >= MAX_BYTES or (left == 0 and room == MAX_MESSAGES)) then
  reply[3] = 1
end
if rate > 0 and room > left then
  call('HSET', Q, 'rtat', string.format('%.3f', clock_of_rate + (room - left) * 1000 / rate))
end
if expired > 0 then call('HINCRBY', Q, 'expired', expired) end
if repeated > 0 then call('HINCRBY', Q, 'redelivered', repeated) end
if hungry and waits > 0 then call('HSET', Q, 'wait', text(now + waits)) end
reply[4] = wait_ms
return reply
