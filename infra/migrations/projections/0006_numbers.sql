-- compatible: 0.1.0
-- The newest number that a build of a version ever had. None is given twice: a decision, a message or a process that is
-- late means the build that it meant, or none.
create table projection_numbers (
    projection text    not null,
    version    integer not null,
    newest     integer not null,
    primary key (projection, version)
);
