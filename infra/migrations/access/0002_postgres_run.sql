-- For which run of PostgreSQL the epoch holds. Another one may have another past: a standby that was promoted, a restored
-- backup. What is in the shared cache then isn't believed.
alter table cache_versions add column postgres text not null default '';
