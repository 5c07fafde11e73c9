-- Purpose: what the queue scripts share; scripts.py puts it in front of each of them.
-- Atomic: it is part of the script that uses it, never run alone.
-- KEYS: 1 {q} hash, 2 :l waiting list, 3 :w broadcast window, 4 :r round-robin window,
--       5 :c daemons, 6 :t turn of the slots, 7 :m room of the slots, 8 :h history for replay,
--       9 :p presence, 10 :y ready again, 11 :j, 12 :x, 13 :d, 14 :k (see keys.py and jobs.lua), 15 :f folded
-- ARGV: 1 now in ms ("0": the server's clock); the rest belongs to the script.
-- Returns: nothing.
--
-- Entry    I7 id, I6 created ms, I6 expires ms (0: never), payload.
-- Payload  1 byte length of the content type (to 250), content type, body. In front of that, if it is more
--          than that: "\255", I2 attempts, I1 priority, I2 length of the headers, I2 length of the
--          last error, headers, last error.
-- Ready    messages are in the list, and in :y if they came back or have a priority: a sorted set of
--          I1 9 - priority, entry; all scores are 0, so it is in the order of priorities, then ids.
-- Folded   messages are in :f, all with higher ids than those in the list: packs, and entries that came while packs
--          waited. The field fold is how many messages that are.
-- Pack     of n messages with ids in a row: "\255" (no id begins so), I7 the first id, I6 created ms, I6 expires ms, I4 n,
--          I4 how many were deleted, I4 the place of each from 0, I1 how many templates, of each (I1 length, key,
--          I2 length, front, I2 length, back), then n lines with LF between. A body is front, line, back; its key is the digits
--          of the <digits> that the line begins with, or nothing.
--          add puts packs in, or their messages if somebody streams, observes, or the queue is new; import, put and
--          add put entries behind packs (append). Who takes from what is ready (next_run: pop, receive, redrive, peek,
--          put where it makes room, all that drain) unfolds packs into the list first, 1,000 messages or so a call.
--          find, browse and inspect read packs as they lie, delete marks the place in them; purge and
--          remove drop them. The others do not look at what waits.
-- Chunk    kind 'b' or 'r', I7 epoch, I7 prev, I7 pos, I7 bpos, I4 n, owner (12 bytes; kind 'b': I7 base,
--          5 bytes), n x I4 entry lengths, kind 'r': n x I4 consumer numbers, entries.
-- Position counts pushed messages (bpos: their bytes); a chunk covers prev+1 .. pos.
-- Order    Broadcasts rise by their ids, hid is the highest; a chunk's base is what hid was before it. An id
--          at or below the base comes late (it was dealt before). What returns to the list was never
--          pushed: hid goes back to its base. All ids above solid, up to hid, were broadcast.
-- History  of broadcast, a list: I6 time of the push, then the chunk. hn and hb: its messages and their bytes.
-- A slot   daemon:number; numbers from 2^31 on are consumers that acknowledge.
-- A daemon in :c: I7 safe pos, I7 bpos (up to there a kernel of its consumers has all), I7 taken
-- pos, I7 bpos (up to there it read), I7 deadline ms (0: being taken apart), I7 last dealt pos.

local Q, L, W, R, C, T, M, H = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local Y, F = KEYS[10], KEYS[15]
local MAX_MESSAGES, MAX_BYTES = 1000, 1048576            -- of one call
local STEP = 16                                          -- entries read before their size is known
local UNSAFE_MESSAGES, UNSAFE_BYTES = 3000, 8388608      -- broadcast: pushed, with no kernel yet
local IN_FLIGHT_MESSAGES, IN_FLIGHT_BYTES = 6000, 16777216  -- broadcast: not yet taken by all daemons
local REPLAY_MS, REPLAY_MESSAGES, REPLAY_BYTES = 60000, 1000, 1048576  -- unless the queue says otherwise
local ACKS = 2147483648                                  -- slots from this number on acknowledge
local ROUND_ROBIN, JOBS = 2, 2                           -- values of the fields pol and mode
local SILENT = 3000                                      -- ms a daemon may be without a channel
local HEAD, CHUNK, DAEMON = '>I7I6I6', '>I7I7I7I7I4', '>I7I7I7I7I7I7'
local SPARE = string.rep('-', 5)
local call, pack, unpack_bytes = redis.call, struct.pack, struct.unpack

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Numbers above 2^31 must not reach Redis in the form 1.7e+12.
local function text(n) return string.format('%.0f', n) end

local FIELDS = {'id', 'st', 'pol', 'pos', 'done', 'safe', 'bpos', 'bdone', 'bsafe', 'out', 'rpos',
                'live', 'epoch', 'mode', 'hid', 'solid', 'hn', 'hb'}
local function load_state()
  local v = call('HMGET', Q, unpack(FIELDS))
  local s = {}
  for i, name in ipairs(FIELDS) do s[name] = tonumber(v[i] or 0) end
  s.known, s.was_set = v[1], {}
  s.started = v[2] ~= '0' and v[2] ~= '2'
  for i, name in ipairs(FIELDS) do s.was_set[name] = s[name] end
  return s
end

local function save_state(s)
  local changed = {}
  for _, name in ipairs(FIELDS) do
    if s[name] ~= s.was_set[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = text(s[name])
      s.was_set[name] = s[name]
    end
  end
  if #changed > 0 then call('HSET', Q, unpack(changed)) end
end

-- A script that writes in several places looks at the types of all first: nothing is rolled back.
local KINDS = {'hash', 'list', 'zset', 'zset', 'hash', 'list', 'hash', 'list', 'hash', 'zset', 'hash',
               'zset', 'zset', 'zset', 'list'}
local function check_types()
  for i, wanted in ipairs(KINDS) do
    local kind = call('TYPE', KEYS[i]).ok
    if kind ~= 'none' and kind ~= wanted then
      error({err = 'WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind .. ', not a ' .. wanted})
    end
  end
end

local function parse_daemon(bytes)
  local safe, bsafe, taken, btaken, deadline, last = unpack_bytes(DAEMON, bytes)
  return {safe = safe, bsafe = bsafe, taken = taken, btaken = btaken, deadline = deadline, last = last}
end

local function get_daemon(name)
  local bytes = call('HGET', C, name)
  return bytes and parse_daemon(bytes)
end

local function set_daemon(name, d)
  call('HSET', C, name, pack(DAEMON, d.safe, d.bsafe, d.taken, d.btaken, d.deadline, d.last))
end

local function entry_id(e) return (unpack_bytes('>I7', e)) end

local function is_gone(e, now)
  local expires = unpack_bytes('>I6', e, 14)
  return expires > 0 and expires <= now
end

local function lengths(entries)
  local n, size = {}, 0
  for i, e in ipairs(entries) do n[i] = #e; size = size + #e end
  return pack('>' .. string.rep('I4', #entries), unpack(n)), size
end

local function split(chunk)
  local epoch, prev, pos, bpos, n = unpack_bytes(CHUNK, chunk, 2)
  local at = 2 + 32 + 12
  local sizes = {unpack_bytes('>' .. string.rep('I4', n), chunk, at)}
  at = at + 4 * n
  if string.sub(chunk, 1, 1) == 'r' then at = at + 4 * n end
  local entries = {}
  for i = 1, n do
    entries[i] = string.sub(chunk, at, at + sizes[i] - 1)
    at = at + sizes[i]
  end
  return entries, string.sub(chunk, 34, 45)
end

local function push_entries(key, entries, from)
  for i = from, #entries, MAX_MESSAGES do
    call('RPUSH', key, unpack(entries, i, math.min(i + MAX_MESSAGES - 1, #entries)))
  end
end

-- Append to what waits, in slices a Lua call can take: behind packs if there are any.
local function append(entries, from)
  if from > #entries then return end
  if call('EXISTS', F) == 0 then
    push_entries(L, entries, from)
  else
    push_entries(F, entries, from)
    call('HINCRBY', Q, 'fold', #entries - from + 1)
  end
end

-- Of an element of :f: its first id, and how many messages it is.
local function span(element)
  if string.byte(element) ~= 255 then return entry_id(element), 1 end
  return (unpack_bytes('>I7', element, 2)), (unpack_bytes('>I4', element, 21))
end

-- The entries of an element of :f, behind those that are in `entries` already.
local function entries_of(element, entries)
  entries = entries or {}
  local had = #entries
  if string.byte(element) ~= 255 then
    entries[had + 1] = element
    return entries
  end
  local first, created, expires, n, deleted, at = unpack_bytes('>I7I6I6I4I4', element, 2)
  local is_deleted, fronts, backs = {}, {}, {}
  for _ = 1, deleted do
    is_deleted[unpack_bytes('>I4', element, at) + 1], at = true, at + 4
  end
  local templates, key, front, back
  templates, at = unpack_bytes('>I1', element, at)
  local stamp = pack('>I6I6', created, expires) .. '\0'
  for _ = 1, templates do
    key, front, back, at = unpack_bytes('>I1c0I2c0I2c0', element, at)
    fronts[key], backs[key] = stamp .. front, back
  end
  local find, match, sub = string.find, string.match, string.sub
  front, back = fronts[key], backs[key]  -- those of all lines, if there is only one
  for i = 1, n do
    local stop = find(element, '\n', at, true) or #element + 1
    if is_deleted[i] then
      entries[had + i] = pack(HEAD, first + i - 1, created, 1)
    else
      if templates > 1 then
        key = match(element, '^<(%d+)>', at) or ''
        front, back = fronts[key], backs[key]
      end
      entries[had + i] = pack('>I7', first + i - 1) .. front .. sub(element, at, stop - 1) .. back
    end
    at = stop + 1
  end
  return entries
end

-- Where :f may have this id: the index of the last element that does not begin above it, or -1.
local function place_in_fold(id)
  local low, high = 0, call('LLEN', F)
  while low < high do
    local at = math.floor((low + high) / 2)
    if span(call('LINDEX', F, at)) <= id then low = at + 1 else high = at end
  end
  return low - 1
end

-- The entry in :f with this id, the index of its element, the element, its place there from 0; or nil.
local function folded(id)
  local at = place_in_fold(id)
  local element = at >= 0 and call('LINDEX', F, at)
  if not element then return nil end
  local first, n = span(element)
  if id >= first + n then return nil end
  return entries_of(element)[id - first + 1], at, element, id - first
end

-- Where fewer than `wanted` messages are in the list, those at the head of :f become entries of it: until it has
-- MAX_MESSAGES, of which the last may come with its whole pack, or MAX_BYTES.
local function unfold(wanted)
  if call('EXISTS', F) == 0 then return end
  local waiting = call('LLEN', L)
  if waiting >= wanted then return end
  check_types()
  local entries, size, at = {}, 0, 0
  while waiting + #entries < MAX_MESSAGES and size < MAX_BYTES do
    local element = call('LINDEX', F, at)
    if not element then break end
    local before = #entries
    entries_of(element, entries)
    for i = before + 1, #entries do size = size + #entries[i] end
    at = at + 1
  end
  push_entries(L, entries, 1)
  call('LTRIM', F, at, -1)
  -- Not by the number: where the hash was lost that begins at 0 again.
  if call('EXISTS', F) == 0 then call('HDEL', Q, 'fold') else call('HINCRBY', Q, 'fold', -#entries) end
end

-- Messages that came back are ready again, before all that have a higher id.
local function put_back(entries)
  local members = {}
  for i, e in ipairs(entries) do
    local priority = string.byte(e, 20) == 255 and string.byte(e, 23) or 0
    members[2 * i - 1], members[2 * i] = 0, string.char(9 - priority) .. e
  end
  for i = 1, #members, MAX_MESSAGES do
    call('ZADD', Y, unpack(members, i, math.min(i + MAX_MESSAGES - 1, #members)))
  end
end

-- In mode jobs messages go to consumers that acknowledge, one each, whatever the policy says.
local function is_dealt(s) return s.pol == ROUND_ROBIN or s.mode == JOBS end

-- Broadcast stops pushing when so much is unconfirmed; round robin is bound by the slots' room.
local function may_push(s)
  return is_dealt(s)
    or (s.pos - s.safe < UNSAFE_MESSAGES and s.bpos - s.bsafe < UNSAFE_BYTES
        and s.pos - s.done < IN_FLIGHT_MESSAGES and s.bpos - s.bdone < IN_FLIGHT_BYTES)
end

local function chunk_base(chunk) return (unpack_bytes('>I7', chunk, 34)) end

-- Of a broadcast chunk.
local function last_id(chunk)
  local n = unpack_bytes('>I4', chunk, 30)
  local size = unpack_bytes('>I4', chunk, 42 + 4 * n)
  return (unpack_bytes('>I7', chunk, #chunk - size + 1))
end

-- Broadcast: the order goes on behind these entries, if it does.
local function go_on(s, entries)
  local i, last = #entries, entry_id(entries[#entries])
  if last <= s.hid then return end
  if entry_id(entries[1]) ~= s.hid + 1 or last - s.hid ~= #entries then
    while i > 1 and entry_id(entries[i - 1]) == entry_id(entries[i]) - 1 do i = i - 1 end
    s.solid = entry_id(entries[i]) - 1
  end
  s.hid = last
end

-- What an element of the history counts there, times `sign`.
local function count_history(s, element, sign)
  local n = unpack_bytes('>I4', element, 36)
  s.hn, s.hb = s.hn + sign * n, s.hb + sign * (#element - 51 - 4 * n)
end

-- Broadcast: keep a chunk for those who come back, within the queue's bounds.
local function remember(s, chunk)
  local v = call('HMGET', Q, 'replay', 'replay_n')
  local ms, most = tonumber(v[1] or REPLAY_MS), tonumber(v[2] or REPLAY_MESSAGES)
  if ms == 0 or most == 0 then
    call('UNLINK', H)  -- with a hole in it nothing of it can be trusted
    return
  end
  local element = pack('>I6', clock()) .. chunk
  local kept = call('RPUSH', H, element)
  if kept == 1 then s.hn, s.hb = 0, 0 end
  count_history(s, element, 1)
  while kept > 1 and (s.hn > most or s.hb > REPLAY_BYTES) do
    count_history(s, call('LPOP', H), -1)
    kept = kept - 1
  end
  call('PEXPIRE', H, text(ms))
end

-- Broadcast: the newest chunk returns to the list, as if it had not been pushed.
local function unsay(s, chunk)
  local base = chunk_base(chunk)
  s.hid, s.solid = math.min(s.hid, base), math.min(s.solid, base)
  local newest = call('LINDEX', H, -1)
  if newest and string.sub(newest, 7) == chunk then count_history(s, call('RPOP', H), -1) end
end

-- Broadcast: one chunk into the window and the same bytes to every daemon.
local function push_to_all(s, entries)
  local sizes, size = lengths(entries)
  local prev, pos = s.pos, s.pos + #entries
  local chunk = table.concat({'b', pack(CHUNK, s.epoch, prev, pos, s.bpos + size, #entries), pack('>I7', s.hid),
                              SPARE, sizes, table.concat(entries)})
  call('ZADD', W, text(pos), chunk)
  if call('PUBLISH', Q .. ':out', chunk) == 0 then
    call('ZREMRANGEBYSCORE', W, text(pos), text(pos))
    return 0
  end
  local base = s.hid
  s.pos, s.bpos = pos, s.bpos + size
  go_on(s, entries)
  if s.hid > base then remember(s, chunk) end
  return #entries
end

-- Whose turn is it, for up to `wanted` entries: slots in turn that have room.
-- Room is counted in units of a message plus its whole KiB; one with room left takes any size.
local function take_turns(entries, only_acks)
  local ring = call('LLEN', T)
  if ring == 0 then return {}, 0 end
  local slots, room, loaded = {}, {}, 0
  local chosen, cursor, skipped = {}, 0, 0
  local block = math.min(math.max(#entries, 8), MAX_MESSAGES)
  while #chosen < #entries and skipped < ring do
    local i = cursor % ring + 1
    if i > loaded then
      local more = call('LRANGE', T, loaded, loaded + block - 1)
      local rooms = call('HMGET', M, unpack(more))
      for k, slot in ipairs(more) do
        local may = not only_acks or tonumber(string.sub(slot, 14)) >= ACKS
        slots[loaded + k], room[loaded + k] = slot, may and tonumber(rooms[k] or 0) or 0
      end
      loaded = loaded + #more
    end
    if room[i] > 0 then
      room[i] = room[i] - 1 - math.floor(#entries[#chosen + 1] / 1024)
      chosen[#chosen + 1], skipped = i, 0
    else
      skipped = skipped + 1
    end
    cursor = cursor + 1
  end
  return chosen, (cursor - skipped) % ring, slots, room
end

local function rotate(slots, steps)
  for i = 1, steps, MAX_MESSAGES do
    call('RPUSH', T, unpack(slots, i, math.min(i + MAX_MESSAGES - 1, steps)))
  end
  call('LTRIM', T, steps, -1)
end

-- One chunk for one daemon; its chain of positions is its own.
local function send_part(s, daemon, part)
  local d = get_daemon(daemon)
  if not d then return false end
  local sizes, size = lengths(part.entries)
  local pos = s.rpos + #part.entries
  local chunk = table.concat({'r', pack(CHUNK, s.epoch, d.last, pos, size, #part.entries), daemon, sizes,
    pack('>' .. string.rep('I4', #part.numbers), unpack(part.numbers)), table.concat(part.entries)})
  call('ZADD', R, text(pos), chunk)
  if call('PUBLISH', Q .. ':to:' .. daemon, chunk) == 0 then
    call('ZREMRANGEBYSCORE', R, text(pos), text(pos))
    return false
  end
  d.last = pos
  set_daemon(daemon, d)
  s.rpos, s.out = pos, s.out + #part.entries
  return true
end

-- Take slots (a list) out of the turn; LREM walks the whole of it for each.
local function remove_slots(gone)
  if #gone == 0 then return end
  for i = 1, #gone, MAX_MESSAGES do
    call('HDEL', M, unpack(gone, i, math.min(i + MAX_MESSAGES - 1, #gone)))
  end
  if #gone <= 4 then
    for _, slot in ipairs(gone) do call('LREM', T, 0, slot) end
    return
  end
  local is_gone_slot, kept = {}, {}
  for _, slot in ipairs(gone) do is_gone_slot[slot] = true end
  for _, slot in ipairs(call('LRANGE', T, 0, -1)) do
    if not is_gone_slot[slot] then kept[#kept + 1] = slot end
  end
  call('DEL', T)
  for i = 1, #kept, MAX_MESSAGES do
    call('RPUSH', T, unpack(kept, i, math.min(i + MAX_MESSAGES - 1, #kept)))
  end
end

local function drop_slots(daemon)
  local gone = {}
  for _, slot in ipairs(call('HKEYS', M)) do
    if string.sub(slot, 1, 12) == daemon then gone[#gone + 1] = slot end
  end
  remove_slots(gone)
end

-- Round robin: deal a prefix of the entries over the slots in strict turn.
-- A daemon that is not listening gets nothing: its entries come back in second place, and it has
-- no more turn until it joins again.
local function deal_once(s, entries)
  local chosen, steps, slots, room = take_turns(entries, s.mode == JOBS)
  if #chosen == 0 then return 0, {} end
  local parts, order, touched = {}, {}, {}
  for k, i in ipairs(chosen) do
    local daemon, number = string.sub(slots[i], 1, 12), tonumber(string.sub(slots[i], 14))
    local part = parts[daemon]
    if not part then
      part = {entries = {}, numbers = {}}
      parts[daemon], order[#order + 1] = part, daemon
    end
    part.entries[#part.entries + 1], part.numbers[#part.numbers + 1] = entries[k], number
    touched[i] = true
  end
  local refused, deaf = {}, {}
  for _, daemon in ipairs(order) do
    if not send_part(s, daemon, parts[daemon]) then
      deaf[#deaf + 1] = daemon
      for _, e in ipairs(parts[daemon].entries) do refused[#refused + 1] = e end
    end
  end
  local values = {}
  for i in pairs(touched) do
    values[#values + 1], values[#values + 2] = slots[i], text(room[i])
  end
  for i = 1, #values, MAX_MESSAGES do
    call('HSET', M, unpack(values, i, math.min(i + MAX_MESSAGES - 1, #values)))
  end
  rotate(slots, steps)
  for _, daemon in ipairs(deaf) do drop_slots(daemon) end
  return #chosen, refused
end

-- The same, and what one daemon refused goes to the others; each round leaves fewer of them.
local function deal(s, entries)
  local sent, refused = deal_once(s, entries)
  local back = {}
  while #refused > 0 do
    table.sort(refused, function(a, b) return entry_id(a) < entry_id(b) end)
    local again, still = deal_once(s, refused)
    for i = again + 1, #refused do back[#back + 1] = refused[i] end
    refused = still
  end
  return sent, back
end

-- Hand a prefix of the entries to the consumers by the queue's policy; how many went,
-- and which of those came back because nobody was there.
local function push(s, entries)
  if not may_push(s) then return 0, {} end
  if is_dealt(s) then return deal(s, entries) end
  return push_to_all(s, entries), {}
end

-- The head of the list, at most `wanted` entries or MAX_BYTES and one, without taking it; ids below
-- `bound` only (nil: any).
local function head_of_list(wanted, bound)
  local found, size = {}, 0
  while #found < wanted do
    local more = call('LRANGE', L, #found, math.min(#found + STEP, wanted) - 1)
    if #more == 0 then break end
    for _, e in ipairs(more) do
      if size >= MAX_BYTES or (bound and entry_id(e) > bound) then return found end
      found[#found + 1] = e
      size = size + #e
    end
  end
  return found
end

-- What is ready and comes first, all from one place, without taking it: entries and that place.
local function next_run(wanted)
  unfold(wanted)
  local first = call('ZRANGE', Y, 0, 0)[1]
  if not first then return head_of_list(wanted), L end
  local head = call('LINDEX', L, 0)
  local bound, found, size = head and entry_id(head), {}, 0
  local function waits(m) return bound and string.byte(m) == 9 and unpack_bytes('>I7', m, 2) > bound end
  if waits(first) then return head_of_list(wanted, (unpack_bytes('>I7', first, 2))), L end
  while #found < wanted do
    local more = call('ZRANGE', Y, #found, math.min(#found + STEP, wanted) - 1)
    if #more == 0 then break end
    for _, m in ipairs(more) do
      if size >= MAX_BYTES or waits(m) then return found, Y end
      found[#found + 1] = string.sub(m, 2)
      size = size + #m
    end
  end
  return found, Y
end

-- Take the first `count` of what `next_run` told.
local function take_run(place, count)
  if count == 0 then return end
  if place == L then call('LTRIM', L, count, -1) else call('ZREMRANGEBYRANK', Y, 0, count - 1) end
end

-- Push waiting messages to the consumers: at most one chunk's worth. True if there may be more.
local function drain(s, now)
  if not s.started or s.live <= now or not may_push(s) then return false end
  local head, place = next_run(MAX_MESSAGES)
  if #head == 0 then return false end
  local entries, from = {}, {}
  for i, e in ipairs(head) do
    if not is_gone(e, now) then entries[#entries + 1], from[#entries + 1] = e, i end
  end
  local gone, refused = #entries, {}
  if #entries > 0 then gone, refused = push(s, entries) end
  local used = #head
  if gone < #entries then used = from[gone + 1] - 1 end
  take_run(place, used)
  put_back(refused)
  return used > #refused
end

local function daemons()
  local all, flat = {}, call('HGETALL', C)
  for i = 1, #flat, 2 do all[flat[i]] = parse_daemon(flat[i + 1]) end
  return all
end

-- Take back what was dealt to a daemon (nil: to any) from position d.last down, which is lowered:
-- MAX_MESSAGES of it, looking at MAX_MESSAGES chunks or MAX_BYTES. True when nothing of it is left.
local function reclaim_dealt(s, owner, d)
  local count, size, looked, entries, complete = 0, 0, 0, {}, s.out == 0
  while not complete and count < MAX_MESSAGES and size < MAX_BYTES and looked < MAX_MESSAGES do
    local chunk = call('ZREVRANGEBYSCORE', R, text(d.last), '-inf', 'LIMIT', 0, 1)[1]
    if not chunk then
      complete = true
    else
      local _, _, pos, _, n = unpack_bytes(CHUNK, chunk, 2)
      looked, size, d.last = looked + 1, size + #chunk, pos - 1
      if owner == nil or string.sub(chunk, 34, 45) == owner then
        for _, e in ipairs((split(chunk))) do entries[#entries + 1] = e end
        call('ZREM', R, chunk)
        count, s.out = count + n, s.out - n
      end
    end
  end
  put_back(entries)
  return complete
end

-- Ids or positions, seven bytes each, as a set.
local function numbers(bytes)
  local set = {}
  for i = 1, #bytes, 7 do set[(unpack_bytes('>I7', bytes, i))] = true end
  return set
end

-- Take entries out of a dealt chunk: those for which `leaves(id)` is true. Returns those entries.
local function take_out(s, chunk, leaves)
  local entries = split(chunk)
  local first_number, kept, kept_numbers, left = 46 + 4 * #entries, {}, {}, {}
  for i, e in ipairs(entries) do
    if leaves(entry_id(e)) then
      left[#left + 1] = e
    else
      kept[#kept + 1] = e
      kept_numbers[#kept_numbers + 1] = string.sub(chunk, first_number + 4 * i - 4, first_number + 4 * i - 1)
    end
  end
  if #left == 0 then return left end
  local _, _, pos = unpack_bytes(CHUNK, chunk, 2)
  call('ZREM', R, chunk)
  s.out = s.out - #left
  if #kept > 0 then
    call('ZADD', R, text(pos), table.concat({string.sub(chunk, 1, 29), pack('>I4', #kept),
      string.sub(chunk, 34, 45), lengths(kept), table.concat(kept_numbers), table.concat(kept)}))
  end
  return left
end

-- Dealt chunks a daemon is through with, from ARGV[at]: how many, then for each its position,
-- "1" if all of it is done but what comes back, the ids that are done, those that come back, those
-- that come back because their lease is over: these are returned. Idempotent: what is not in the
-- chunk any more is passed over.
local function settle(s, me, at)
  local back, over = {}, {}
  for _ = 1, tonumber(ARGV[at]) do
    local pos, whole, done, returns = ARGV[at + 1], ARGV[at + 2] == '1', numbers(ARGV[at + 3]), numbers(ARGV[at + 4])
    local ended = numbers(ARGV[at + 5])
    at = at + 5
    local chunk = call('ZRANGEBYSCORE', R, pos, pos)[1]
    if chunk and string.sub(chunk, 34, 45) == me then
      if whole and next(returns) == nil and next(ended) == nil then
        local _, _, _, _, n = unpack_bytes(CHUNK, chunk, 2)
        call('ZREM', R, chunk)
        s.out = s.out - n
      else
        local left = take_out(s, chunk, function(id) return whole or done[id] or returns[id] or ended[id] end)
        for _, e in ipairs(left) do
          if returns[entry_id(e)] then back[#back + 1] = e end
          if ended[entry_id(e)] then over[#over + 1] = e end
        end
      end
    end
  end
  put_back(back)
  return over
end

-- Nothing is out any more.
local function all_done(s)
  s.done, s.bdone, s.safe, s.bsafe, s.out = s.pos, s.bpos, s.pos, s.bpos, 0
end

-- Nobody is left: what no kernel has goes back to the head of the list.
-- True when all is back; else call again (bounded as reclaim_dealt).
local function reclaim_all(s)
  local count, size = 0, 0
  call('ZREMRANGEBYSCORE', W, '-inf', text(s.safe))
  while count < MAX_MESSAGES and size < MAX_BYTES do
    local chunk = call('ZREVRANGE', W, 0, 0)[1]
    if not chunk then break end
    local entries = split(chunk)
    call('ZREM', W, chunk)
    unsay(s, chunk)
    put_back(entries)
    count, size = count + #entries, size + #chunk
  end
  if call('EXISTS', W) == 1 or not reclaim_dealt(s, nil, {last = s.rpos}) then return false end
  call('DEL', C, T, M)
  all_done(s)
  s.live = 0
  return true
end

local function deserted(s, now)
  return s.live <= now or call('PUBSUB', 'NUMSUB', Q .. ':out')[2] == 0
end

-- Before the list is looked at: if messages are out with daemons that are all gone, fetch them.
-- False: call again.
local function home(s, now)
  if (s.pos == s.done and s.out == 0) or not deserted(s, now) then return true end
  check_types()
  return reclaim_all(s)
end

-- Forget daemons whose time is over; `look`: shorten that of those whose channel has no listener.
-- Then done is what every one of the others took and a kernel has, also of one that left: a daemon
-- whose consumers all hang holds nobody up. False: some of the work is left for the next call.
local function forget_dead(s, now, me, look)
  local complete, live, taken = true, 0, nil
  for name, d in pairs(daemons()) do
    local dead = d.deadline == 0 or (d.deadline <= now and name ~= me)
    -- After a restart of the store all are silent for a moment: one gets so long to come back.
    if not dead and look and name ~= me and d.deadline > now + SILENT
      and call('PUBSUB', 'NUMSUB', Q .. ':to:' .. name)[2] == 0 then
      d.deadline = now + SILENT
      set_daemon(name, d)
    end
    -- (Above pos: said of a life of the store that is lost.)
    if d.safe > s.safe and d.safe <= s.pos then s.safe, s.bsafe = d.safe, d.bsafe end
    if not dead then
      live = math.max(live, d.deadline)
      if not taken or d.taken < taken.taken then taken = d end
    else
      if d.deadline > 0 then drop_slots(name) end
      d.deadline = 0
      if reclaim_dealt(s, name, d) then
        call('HDEL', C, name)
      else
        set_daemon(name, d)
        complete = false
      end
    end
  end
  s.live = live
  if taken then
    local done, bdone = s.safe, s.bsafe
    if taken.taken < done then done, bdone = taken.taken, taken.btaken end
    if done > s.done then
      s.done, s.bdone = done, bdone
      call('ZREMRANGEBYSCORE', W, '-inf', text(done))
    end
  end
  return complete
end
