-- Requests for wrk: -- METHOD PATH QUEUES COUNT [BODY [CONTENT-TYPE]]
-- "@" in path and body becomes a number from 1 to QUEUES, at random with a fixed seed.
-- COUNT requests are sent and then wrk is ended; 0: as many as the time of -d allows.
-- The last line printed is FIGURES and what Python wants to know, as JSON.

local requests, left = {}, -1

local function numbered(text, n)
  return (string.gsub(text, "@", tostring(n)))
end

function init(args)
  local method, path, queues, count = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local headers = {}
  if args[6] then headers["Content-Type"] = args[6] end
  for i = 1, queues do
    local body = args[5] and numbered(args[5], i)
    requests[i] = wrk.format(method, numbered(path, i), headers, body)
  end
  if count > 0 then left = count end
  math.randomseed(1)
end

function request()
  if left == 0 then
    left = -1
    wrk.thread:stop()
    -- wrk itself sleeps until its time is up or a signal comes. system() has SIGINT ignored while
    -- it runs, and the thread that ends may be the one it reaches: so not once.
    os.execute("(for i in 1 2 3 4 5 6 7 8 9; do sleep 0.02; kill -INT $PPID || exit; done) " ..
               ">/dev/null 2>&1 &")
  end
  left = left - 1
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'FIGURES {"operations": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
