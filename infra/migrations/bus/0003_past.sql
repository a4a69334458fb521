-- The newest event that the relay had sent when it noted how far it has come: by it is recognised whether the log still
-- has that past. A layout of another past is given up, and its topics are never believed again.
alter table bus_progress
    add column seen_position bigint,
    add column seen_id       text,
    add column seen_at       timestamptz;

alter table bus_layouts add column given_up boolean not null default false;
