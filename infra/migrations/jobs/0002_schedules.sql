-- How each schedule stands, and up to which instant its occurrences have their outcome: written by the commits of the
-- facts, and read by the scheduler, which so knows at its start what is next without reading any stream.
create table job_schedules (
    id              uuid        primary key,
    name            text        not null unique,
    cron            text        not null,
    timezone        text        not null,
    standing        text        not null,
    -- since when it stands so; what is due before that and isn't settled goes by what was before
    since           timestamptz not null,
    settled_through timestamptz not null,
    -- the newest job that an occurrence has enqueued
    job_id          uuid
) with (fillfactor = 50);

-- Each outcome says up to where the ones before go. One that begins elsewhere comes from a scheduler that doesn't know
-- what another has settled meanwhile: its commit is refused.
create function muniment_job_settled(
    in_schedule uuid, in_name text, in_after timestamptz, in_through timestamptz, in_job uuid
) returns void language plpgsql as $$
begin
    update job_schedules set settled_through = in_through, job_id = coalesce(in_job, job_id)
     where id = in_schedule and settled_through = in_after;
    if not found then
        raise exception 'the occurrences of % after % are settled already', in_name, in_after
            using errcode = 'MJ002', table = 'job_schedules';
    end if;
end
$$;

-- A scheduler that sleeps until the next instant is woken by what is decided about any schedule.
create function muniment_job_schedule_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('muniment_schedules', new.name);
    return null;
end
$$;

create trigger job_schedules_changed
    after insert or update of cron, timezone, standing, since on job_schedules
    for each row execute function muniment_job_schedule_changed();
