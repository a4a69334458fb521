-- Audit entries are only ever added: the triggers of every build of the audit view call this.
create function muniment_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'audit entries can''t be changed: % on % is refused', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
