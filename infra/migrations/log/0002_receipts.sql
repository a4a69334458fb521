-- What came of commands that carried an Idempotency-Key. Exempt from the first law: they live short and prove nothing.
create table receipts (
    key bytea primary key,
    body bytea not null,
    status integer not null,
    result bytea not null,
    versions jsonb not null,
    position bigint not null,
    fulfilled_at timestamptz not null
);

create index receipts_fulfilled_at on receipts using brin (fulfilled_at);

create unlogged table receipt_reservations (
    key bytea primary key,
    until timestamptz not null
);
