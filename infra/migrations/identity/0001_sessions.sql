-- Which sessions live: written in the commit's own transaction, because an ended session must end at once.

create table sessions (
    id uuid primary key,
    user_id uuid not null,
    opened_position bigint not null,
    ended_position bigint
);

-- Sessions of a user that were opened at or below the position are ended: by a suspension, a new password.
create table session_floors (
    user_id uuid primary key,
    not_before bigint not null
);
