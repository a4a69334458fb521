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
    -- at which version the stored value of each key became what it is, those included that went back to the default
    key_versions   jsonb   not null default '{}',
    -- of the customers' own namespaces, and how often it was declared; the platform's come with the software
    schema         jsonb,
    declarations   integer not null default 0
) with (fillfactor = 50);
