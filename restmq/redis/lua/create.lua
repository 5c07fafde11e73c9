#!lua
-- Purpose: make sure that a queue exists.
-- Atomic: of several who ask one makes it.
-- KEYS: those of common.lua
-- ARGV: 2 fields it gets if it is new ("name value name value", the first of a name counts)
-- Returns: 1 made, 0 it was there
check_types()
local s = load_state()
if s.known then return 0 end
local new = call('HEXISTS', Q, 'mode') == 0 and call('HEXISTS', Q, 'st') == 0 and 1 or 0
for name, value in string.gmatch(ARGV[2], '(%S+) (%S+)') do call('HSETNX', Q, name, value) end
call('HSETNX', Q, 'st', 1)
call('HSETNX', Q, 'epoch', text(clock()))
call('HSET', Q, 'id', 0)
return new
