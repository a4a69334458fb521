-- How the log is laid out on the bus, and how far the relay has carried it there.

-- A layout is one set of chains: over these Kafka topics, in so many partitions, of these types of events, from this
-- position on. The newest one is in use. Another incarnation is another set of topics: the old one had another number
-- of partitions, or belonged to another past of the log.
create table bus_layouts (
    layout        integer     not null primary key,
    incarnation   integer     not null check (incarnation > 0),
    partitions    integer     not null check (partitions > 0),
    topics        text[]      not null,
    types_digest  text        not null,
    from_position bigint      not null,
    reason        text        not null,
    created_at    timestamptz not null default clock_timestamp()
);

-- Per partition: through which position Kafka has acknowledged it, and the position of its newest event (`previous`
-- of the one that follows). `fence` is that of the relay's lease under which it was written.
create table bus_progress (
    layout     integer     not null references bus_layouts on delete cascade,
    topic      text        not null,
    partition  integer     not null,
    position   bigint      not null,
    previous   bigint      not null,
    fence      bigint      not null default 0,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (layout, topic, partition)
) with (fillfactor = 20);
