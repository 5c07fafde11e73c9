#!lua flags=allow-oom
-- Purpose: where a log is, for a daemon that begins to follow it or comes back to the store.
-- Atomic: a store that lost time gets its new epoch before anybody reads more.
-- KEYS: those of log_common.lua
-- ARGV: 2 the highest id, 3 the latest epoch this daemon ever saw here, 4 "1": count, too,
--       5 the server's run id ('': not known), 6 an id that a reader had from another store (0: none)
-- Returns: now, epoch, last id, version of the bindings, how many events are kept, the oldest and the
--          newest entry ('' if there is none; all three only when asked for).
local now, floor, epoch = clock(), tonumber(ARGV[2]), tonumber(ARGV[3])
check_types()
local s = load_log()
mend(s, now, floor, epoch)
if s.known then
  look_at_run(s, ARGV[5])
  local foreign = tonumber(ARGV[6])
  -- Who reads on by it would get all there is each time, until ids are above it. Anybody may say so: he is
  -- believed once, and not just anything, since ids have 53 bits.
  if foreign > s.id and s.id < 2 ^ 31 and foreign < 2 ^ 40 then
    leap(s, math.max(foreign + LEAP, 2 ^ 31))
  end
end
local count, oldest, newest = 0, '', ''
if ARGV[4] == '1' then
  for class = 0, CLASSES - 1 do
    local key = KEYS[ENTRIES + class]
    local here = call('XLEN', key)
    if here > 0 then
      count = count + here
      local first = call('XRANGE', key, '-', '+', 'COUNT', 1)[1][2][2]
      local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][2][2]
      if oldest == '' or first < oldest then oldest = first end
      if last > newest then newest = last end
    end
  end
end
return {text(now), text(s.epoch), text(s.id), s.bindings, count, oldest, newest}
