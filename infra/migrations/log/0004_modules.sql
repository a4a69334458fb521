-- compatible: 0.1.0
-- Modules of one's own that have joined, so that a process without one of them says so before it meets its events.
create table log_modules (
    name      text        primary key,
    setting   text        not null,
    joined_at timestamptz not null default clock_timestamp()
);
