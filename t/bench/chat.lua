-- chat.lua - what wrk sends (the file that BENCH_BODY names), and its own
-- counters as the last line of what it prints. There is no response function:
-- wrk counts statuses over 399 and broken replies by itself, for less.
local file = assert(io.open(assert(os.getenv("BENCH_BODY")), "rb"))

wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer not-the-backends-key"
file:close()

function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '{"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,' ..
        '"timeout":%d,"status":%d,"p50_us":%d,"p99_us":%d}\n',
        summary.requests, summary.duration, e.connect, e.read, e.write,
        e.timeout, e.status, latency:percentile(50), latency:percentile(99)))
end
