-- compatible: 0.1.0
-- A claim costs no more, however many queues are ready: it looks at the first 10,000 by name (those behind them come
-- when these are empty), or at those that the worker serves. Whoever enqueues may name queues that nobody has heard of: a
-- million of them kept every worker looking until its statement timed out. Otherwise this is as in 0001.
--
-- Claims at most so many jobs for a worker, in one short transaction. `in_queues`: null for all. `in_freed`: keys of
-- which this worker has just freed a slot; null: look at all.
--
-- A row without an id says: call again, there may be more. Queues share evenly; within one the rank decides. Where
-- limits have to be kept one claimer comes after the other.
create or replace function muniment_claim_jobs(
    in_worker text, in_queues text[], in_count integer, in_lease_seconds double precision, in_freed text[]
) returns setof job_queue language plpgsql as $$
declare
    _now timestamptz := clock_timestamp();
    _left integer := in_count;
    _share integer;
    _free integer;
    _passes integer;
    _taken integer;
    _held integer;
    _queue record;
    _row job_queue;
    _ids uuid[];
    _limited boolean;
    _fair integer;
    _more boolean := false;
    _looked_at integer := 0;
begin
    _limited := exists (select from job_queues where slots is not null)
             or exists (select from job_queue where concurrency_key is not null and state in ('ready', 'held'))
             or exists (select from job_queue where concurrency_key is not null and state = 'scheduled');
    if _limited then
        perform pg_advisory_xact_lock(7235001);
        if in_freed is null or cardinality(in_freed) > 0 then
            perform muniment_release_held_jobs(in_freed);
        end if;
    end if;
    update job_queue set state = 'ready'
     where id in (select id from job_queue where state = 'scheduled' and run_at <= _now order by run_at limit 1000
                     for update skip locked);
    for _queue in
        with recursive ready as (
            (select queue from job_queue where state = 'ready' order by queue limit 1)
            union all
            select (select j.queue from job_queue j where j.state = 'ready' and j.queue > r.queue
                     order by j.queue limit 1)
              from ready r where r.queue is not null
        ), names as (
            (select queue from ready where in_queues is null and queue is not null limit 10000)
            union all
            select distinct queue from unnest(in_queues) queue
        ), open as (
            select n.queue as name, d.slots,
                   (select j.rank from job_queue j where j.state = 'ready' and j.queue = n.queue
                     order by j.rank limit 1) as top
              from names n left join job_queues d on d.name = n.queue
             where not coalesce(d.paused, false)
        )
        select name, slots, count(*) over () - row_number() over (order by top) + 1 as queues_left from open
         where top is not null
         order by top
    loop
        _looked_at := _looked_at + 1;
        _fair := least(_left, ceil(_left::numeric / _queue.queues_left));
        _share := _fair;
        if _queue.slots is not null then
            _free := _queue.slots - (select count(*) from job_queue where state = 'leased' and queue = _queue.name);
            _share := least(_share, _free);
        end if;
        _passes := 0;
        while _share > 0 loop
            with candidates as (
                select id from job_queue where state = 'ready' and queue = _queue.name order by rank limit _share
                   for update skip locked
            ), claimed as (
                update job_queue j
                   set state = 'leased', fence = nextval('job_fences'), worker = in_worker, leased_at = _now,
                       lease_until = clock_timestamp() + in_lease_seconds * interval '1 second'
                  from candidates c where j.id = c.id
                returning j.id
            )
            select array_agg(id) into _ids from claimed;
            _taken := coalesce(cardinality(_ids), 0);
            _held := 0;
            if _limited and _taken > 0 then
                with ranked as (
                    select j.id, j.concurrency_limit as slots, j.cancelling,
                           row_number() over (partition by j.concurrency_key order by j.rank, j.id)
                           + (select count(*) from job_queue r
                               where r.concurrency_key = j.concurrency_key and r.state = 'leased'
                                 and r.id <> all(_ids)) as place
                      from job_queue j where j.id = any(_ids) and j.concurrency_key is not null
                ), surplus as (
                    update job_queue j set state = 'held', worker = null, leased_at = null, lease_until = null
                      from ranked where ranked.id = j.id and ranked.place > ranked.slots and not ranked.cancelling
                    returning j.id
                )
                select count(*) into _held from surplus;
            end if;
            return query select * from job_queue where id = any(_ids) and state = 'leased';
            _left := _left - (_taken - _held);
            -- It had to leave room for others: if they need it not, it may have the rest.
            _more := _more or _taken = _fair;
            _passes := _passes + 1;
            exit when _held = 0;
            _share := _held;
            if _passes = 5 then
                return next _row;
                exit;
            end if;
        end loop;
        exit when _left <= 0;
    end loop;
    if (_more or _looked_at = 10000) and _left > 0 then
        return next _row;
    end if;
end
$$;
