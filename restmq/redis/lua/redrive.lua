#!lua flags=allow-oom
-- Purpose: send dead letters back: from what is ready here into the outbox.
-- Atomic: a message is here or on its way, never both, never neither.
-- KEYS: those of common.lua
-- ARGV: 2 the queue they go to ("": where each came from), 3 how many (1..1000)
-- Returns: {how many, at most 1 MiB and one, 1 if it must be called again: all that it looked at was gone}
-- jobs.lua stands here
check_types()
local now, wanted, moved = clock(), tonumber(ARGV[3]), {}
local run, place = next_run(wanted)
take_run(place, #run)
for _, e in ipairs(run) do
  if not is_gone(e, now) then moved[#moved + 1] = e end
end
into_outbox(REDRIVE, ARGV[2], moved)
return {#moved, (#moved == 0 and #run > 0) and 1 or 0}
