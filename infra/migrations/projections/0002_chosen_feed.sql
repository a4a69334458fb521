-- Whether an operator has chosen the feed of a build: then no start changes it.
alter table projection_builds add column feed_chosen boolean not null default false;
