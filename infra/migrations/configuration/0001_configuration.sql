-- What is stored of each namespace, as the newest commit has left it: read by every process that takes it up.
create table configuration_heads (
    namespace      text    primary key,
    stream         uuid    not null,
    -- of the stream; and the log's position of its newest event
    version        integer not null,
    position       bigint  not null,
    -- the number of the schema that the document was written for; 0 where none was ever written
    schema_version integer not null,
    document       jsonb   not null,
    -- of the customers' own namespaces; the platform's come with the software
    schema         jsonb
) with (fillfactor = 50);
