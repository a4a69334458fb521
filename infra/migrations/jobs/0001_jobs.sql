-- The queue: every job that isn't done yet, and the dead letters. Its rows are made, changed and taken away by the
-- commit of the facts; claims, leases and progress are no facts, and are written by the workers, each in a transaction
-- of its own that waits for nobody. All of those skip rows that a commit has locked: so no commit ever waits for one
-- that waits.

create table job_queue (
    id                uuid             primary key,
    type              text             not null,
    type_version      integer          not null,
    args              jsonb            not null,
    queue             text             not null,
    priority          integer          not null,
    -- ready, scheduled (for run_at), held (for a free slot of its key), leased, dead
    state             text             not null,
    run_at            timestamptz      not null,
    -- What is claimed first: who is due longest, where each point of priority counts like a minute of waiting. So
    -- whatever comes later, everything comes first at some time.
    rank              timestamptz      not null,
    attempts          integer          not null default 0,
    max_attempts      integer          not null,
    timeout_seconds   double precision not null,
    stream_version    bigint           not null,
    concurrency_key   text,
    concurrency_limit integer,
    occurrence        text,
    enqueued_at       timestamptz      not null,
    metadata          jsonb            not null,
    cancelling        boolean          not null default false,
    -- of the newest claim
    fence             bigint           not null default 0,
    worker            text,
    leased_at         timestamptz,
    lease_until       timestamptz,
    progress          double precision,
    message           text
) with (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.5
);

create index job_queue_ready on job_queue (queue, rank) where state = 'ready';
create index job_queue_scheduled on job_queue (run_at) where state = 'scheduled';
create index job_queue_leased on job_queue (lease_until) where state = 'leased';
create index job_queue_running on job_queue (queue) where state = 'leased';
create index job_queue_dead on job_queue (run_at, id) where state = 'dead';
create index job_queue_keyed on job_queue (concurrency_key, state, rank) where concurrency_key is not null;
-- whether there is any job that a limit could hold back, however many dead letters have keys
create index job_queue_limited on job_queue (state)
 where concurrency_key is not null and state in ('ready', 'held', 'scheduled');

-- What was decided about queues. A queue without a row runs without a limit.
create table job_queues (
    name   text    primary key,
    paused boolean not null default false,
    reason text    not null default '',
    slots  integer
);

-- Who works, and who did and vanished within the hour. `queues` null: all.
create table job_workers (
    name       text        primary key,
    host       text        not null,
    pid        integer     not null,
    queues     text[],
    threads    integer     not null,
    running    integer     not null,
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp()
);

-- Each claim gets a fence above all before it.
create sequence job_fences;

create function muniment_job_rank(in_run_at timestamptz, in_priority integer) returns timestamptz
language sql immutable parallel safe return in_run_at - in_priority * interval '60 seconds';

-- Whether inline tables are being made anew from the log: leases count only where something happens for the first time.
create function muniment_job_refilling() returns boolean
language sql stable return coalesce(current_setting('muniment.refilling', true), '') = 'on';

create function muniment_job_refuse(in_id uuid, in_fence bigint) returns void language plpgsql as $$
begin
    if not muniment_job_refilling() then
        raise exception 'the lease on job % with the fence % is lost', in_id, in_fence
            using errcode = 'MJ001', table = 'job_queue';
    end if;
end
$$;

create function muniment_job_succeeded(in_id uuid, in_fence bigint, in_worker text) returns void
language plpgsql as $$
begin
    delete from job_queue
     where id = in_id and state = 'leased' and fence = in_fence and worker = in_worker
       and lease_until > clock_timestamp();
    if not found then
        perform muniment_job_refuse(in_id, in_fence);
        delete from job_queue where id = in_id;
    end if;
end
$$;

create function muniment_job_failed(
    in_id uuid, in_version bigint, in_attempt integer, in_fence bigint, in_worker text, in_reason text,
    in_retry_at timestamptz
) returns void language plpgsql as $$
begin
    perform from job_queue
      where id = in_id and state = 'leased' and fence = in_fence and worker = in_worker
        and (lease_until > clock_timestamp()) = (in_reason <> 'lost')
        for update;
    if not found then
        perform muniment_job_refuse(in_id, in_fence);
    end if;
    update job_queue
       set state = case when in_retry_at is null then 'dead' when in_retry_at > clock_timestamp() then 'scheduled'
                        else 'ready' end,
           run_at = coalesce(in_retry_at, clock_timestamp()), rank = muniment_job_rank(coalesce(in_retry_at, clock_timestamp()), priority),
           attempts = in_attempt, stream_version = in_version, fence = greatest(fence, in_fence),
           worker = null, leased_at = null, lease_until = null, progress = null, message = null
     where id = in_id;
end
$$;

create function muniment_job_snoozed(
    in_id uuid, in_version bigint, in_fence bigint, in_worker text, in_until timestamptz
) returns void language plpgsql as $$
begin
    perform from job_queue
      where id = in_id and state = 'leased' and fence = in_fence and worker = in_worker
        and lease_until > clock_timestamp()
        for update;
    if not found then
        perform muniment_job_refuse(in_id, in_fence);
    end if;
    update job_queue
       set state = case when in_until > clock_timestamp() then 'scheduled' else 'ready' end, run_at = in_until,
           rank = muniment_job_rank(in_until, priority), stream_version = in_version,
           fence = greatest(fence, in_fence), worker = null, leased_at = null, lease_until = null, progress = null,
           message = null
     where id = in_id;
end
$$;

-- Without a fence it ends whatever is going on.
create function muniment_job_cancelled(in_id uuid, in_fence bigint) returns void language plpgsql as $$
begin
    delete from job_queue where id = in_id and (in_fence is null or (fence = in_fence and state = 'leased'));
    if not found and in_fence is not null then
        perform muniment_job_refuse(in_id, in_fence);
        delete from job_queue where id = in_id;
    end if;
end
$$;

-- Who has it is asked to stop; if nobody has it after all, whoever claims it next ends it.
create function muniment_job_cancelling(in_id uuid, in_version bigint) returns void language sql begin atomic
    update job_queue
       set cancelling = true, stream_version = in_version,
           state = case when state in ('scheduled', 'held') then 'ready' else state end
     where id = in_id;
end;

-- What runs already runs on.
create function muniment_job_retried(in_id uuid, in_version bigint, in_more integer, in_run_at timestamptz)
returns void language sql begin atomic
    update job_queue
       set stream_version = in_version,
           max_attempts = case when state = 'dead' then attempts else max_attempts end + in_more,
           run_at = case when state = 'leased' then run_at else coalesce(in_run_at, clock_timestamp()) end,
           rank = case when state = 'leased' then rank
                       else muniment_job_rank(coalesce(in_run_at, clock_timestamp()), priority) end,
           cancelling = false,
           state = case when state = 'leased' then state when in_run_at > clock_timestamp() then 'scheduled'
                        else 'ready' end
     where id = in_id;
end;

-- Keys of which a slot is free again (all keys: null): who was held for one is ready.
create function muniment_release_held_jobs(in_keys text[]) returns void language plpgsql as $$
declare
    _key record;
begin
    for _key in
        select h.concurrency_key as name, max(h.concurrency_limit) as slots from job_queue h
         where h.state = 'held' and h.concurrency_key is not null
           and (in_keys is null or h.concurrency_key = any(in_keys))
         group by 1
    loop
        update job_queue set state = 'ready'
         where id in (
               select id from job_queue where concurrency_key = _key.name and state = 'held' order by rank
                limit greatest(0, _key.slots - (select count(*) from job_queue r
                                                 where r.concurrency_key = _key.name and r.state in ('leased', 'ready')))
                  for update skip locked);
    end loop;
end
$$;

-- Claims at most so many jobs for a worker, in one short transaction. `in_queues`: null for all. `in_freed`: keys of
-- which this worker has just freed a slot; null: look at all.
--
-- A row without an id says: call again, there may be more. Queues share evenly; within one the rank decides. Where
-- limits have to be kept one claimer comes after the other.
create function muniment_claim_jobs(
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
        with recursive names as (
            (select queue from job_queue where state = 'ready' order by queue limit 1)
            union all
            select (select j.queue from job_queue j where j.state = 'ready' and j.queue > n.queue
                     order by j.queue limit 1)
              from names n where n.queue is not null
        ), open as (
            select n.queue as name, d.slots,
                   (select j.rank from job_queue j where j.state = 'ready' and j.queue = n.queue
                     order by j.rank limit 1) as top
              from names n left join job_queues d on d.name = n.queue
             where n.queue is not null and not coalesce(d.paused, false)
               and (in_queues is null or n.queue = any(in_queues))
        )
        select name, slots, count(*) over () - row_number() over (order by top) + 1 as queues_left from open
         order by top
    loop
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
    if _more and _left > 0 then
        return next _row;
    end if;
end
$$;
