-- What the upsert calls for the rare row that has seen partial records, deletes or unknown fields.
-- A stamp is text that sorts as (version, event id), under COLLATE "C"; with a rank in front as (rank, version, event id).

CREATE OR REPLACE FUNCTION penstock.stamp(version bigint, event uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT lpad(to_hex(version), 16, '0') || replace(event::text, '-', '')
$$;

-- The union of two stamp objects, each key's winning stamp kept, in canonical form:
--   * for columns that keep their first value, and for '@first', the lower stamp wins, else the higher one;
--   * what is not above `deleted` goes;
--   * a column's stamp that its base already says goes ("+name" and "@base" have no base);
--   * NULL where every base is present and says `newest` and nothing else is left: the row is plain.
-- bases: object, column -> its base, for columns whose base is not '@full'. base_count: how many bases the type has.
CREATE OR REPLACE FUNCTION penstock.merge_stamps(
    a jsonb, b jsonb, bases jsonb, base_count integer, deleted text, newest text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH both_sides AS (
        SELECT key, coalesce(bases ->> key, CASE WHEN left(key, 1) IN ('@', '+') THEN key ELSE '@full' END) AS base,
               l.value COLLATE "C" AS l, r.value COLLATE "C" AS r
        FROM jsonb_each_text(coalesce(a, '{}')) AS l FULL JOIN jsonb_each_text(coalesce(b, '{}')) AS r USING (key)
    ), won AS (
        SELECT key, base, CASE WHEN base = '@first' THEN least(l, r) ELSE greatest(l, r) END AS stamp
        FROM both_sides
    ), alive AS (
        SELECT key, base, stamp FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"
    ), canonical AS (
        SELECT c.key, c.stamp
        FROM alive AS c LEFT JOIN alive AS base ON base.key = c.base AND c.key <> c.base
        WHERE base.key IS NULL OR CASE WHEN c.base = '@first' THEN c.stamp < base.stamp ELSE c.stamp > base.stamp END
    )
    SELECT CASE
        WHEN count(*) = base_count AND bool_and(left(key, 1) = '@' AND right(stamp, 48) = newest) THEN NULL
        ELSE coalesce(jsonb_object_agg(key, stamp), '{}')
    END
    FROM canonical
$$;

-- Unknown fields, each with the value of its higher stamp; NULL where none is left.
CREATE OR REPLACE FUNCTION penstock.merge_extra(
    a jsonb, b jsonb, a_stamps jsonb, b_stamps jsonb, deleted text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH sides AS (
        SELECT key, value, a_stamps ->> ('+' || key) AS stamp FROM jsonb_each(coalesce(a, '{}'))
        UNION ALL
        SELECT key, value, b_stamps ->> ('+' || key) FROM jsonb_each(coalesce(b, '{}'))
    ), won AS (
        SELECT DISTINCT ON (key) key, value, stamp FROM sides ORDER BY key, stamp COLLATE "C" DESC
    )
    SELECT jsonb_object_agg(key, value) FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"
$$;

-- What a batch begins with: the clock, and a number that grows with every erasure; NULL where there was none.
-- Until its transaction ends the batch is seen in pg_locks, by which an erasure waits for those that may not know its fence:
-- whoever is not seen there yet reads, in a statement with a snapshot of its own, after the fence was committed.
CREATE OR REPLACE FUNCTION penstock.begin_batch(OUT now_us bigint, OUT erasures bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1885695590, 0);
    SELECT max(generation) INTO erasures FROM penstock.fence_key;
    now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END
$$;
