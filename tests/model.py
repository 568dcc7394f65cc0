"""
The reference model: what the tables hold once every event of a set has arrived, in whatever order.

Plain Python on plain dicts, written from the design alone; it shares no code with the product and is its specification.

    types   name -> {"columns": {column: (rule, is_valid)}, "key": (column, ..), "parent": (column, type) or None,
                     "state": column or None, "terminal": {state, ..}, "time": column or None, "window": (from, to)}
    events  {"epoch", "seq", "type", "op", "version", "data"}, the values of data being JSON
    rows    as they are stored, without what is NULL; so a placeholder is its key and nothing else

A rule is newest, first, state, min or max. `time` marks append-only types, whose times must lie in `window`.
"""

import json

BASES = {"newest": "@full", "first": "@first", "state": "@state"}


def fold(types, events, latest):
    """The rows by type and key, and (outcome, reason) by (epoch, seq, event id); `latest` is the highest version to accept."""
    tables, outcomes, groups = {name: {} for name in types}, {}, {}
    for event in events:
        kind, event_id = types.get(event["type"]), f"{event['epoch'][:14]}8{event['epoch'][15:24]}{event['seq']:012x}"
        data = {"id": event_id} | event["data"] if kind and kind["time"] else event["data"]
        outcome = outcomes[event["epoch"], event["seq"], event_id] = judge(kind, event | {"data": data}, latest)
        if outcome == ("merged", None):
            key = tuple(data[column] for column in kind["key"])
            groups.setdefault((event["type"], key), {})[event_id] = event | {"data": data, "id": event_id}
    for (name, key), group in groups.items():
        tables[name][key] = merge(types[name], key, sorted(group.values(), key=stamp))
    for name in [name for name in types if types[name]["parent"]] * len(types):  # a placeholder may need one itself
        column, parent = types[name]["parent"]
        for value in {row.get(column) for row in tables[name].values()} - {None}:
            tables[parent].setdefault((value,), merge(types[parent], (value,), []))
    return tables, outcomes


def judge(kind, event, latest):
    if kind is None or event["version"] > latest:
        return "held", "unknown_type" if kind is None else "clock_ahead"
    data, time, is_upsert = event["data"], kind["time"], event["op"] == "upsert"
    required = {*kind["key"], *([kind["parent"][0]] if kind["parent"] and is_upsert else [])}
    wrong = [name for name, (_, is_valid) in kind["columns"].items() if data.get(name) is not None and not is_valid(data[name])]
    has_nul = "\\u0000" in json.dumps(data).replace("\\\\", "")  # an escaped backslash may stand before u0000
    if wrong or has_nul or any(data.get(name) is None for name in required) or (time and not is_upsert):
        return "dead", "nul_character" if has_nul else "invalid"
    if time and not kind["window"][0] <= data[time] < kind["window"][1]:
        return ("expired", None) if data[time] < kind["window"][0] else ("held", "no_partition_yet")
    return "merged", None


def merge(kind, key, group):
    """The row of one key from its valid events in their order; none of them make a placeholder."""
    upserts, deletes = ([event for event in group if event["op"] == op] for op in ("upsert", "delete"))
    is_final = any(rule != "newest" for name, (rule, _) in kind["columns"].items() if name not in kind["key"])
    live = [event for event in upserts if not deletes or (not is_final and stamp(event) > stamp(deletes[-1]))]
    full = [event for event in live if kind["columns"].keys() <= event["data"].keys()]
    row, stamps, extra = dict(zip(kind["key"], key, strict=True)), {"@full": stamp(full[-1])} if full else {}, {}
    for name in {name for event in live for name in event["data"]}.difference(kind["key"]):
        (row if name in kind["columns"] else extra)[name], needed = settle(kind, name, live, full)
        stamps |= needed
    if live:
        row |= {"_version": live[-1]["version"], "_event": live[-1]["id"], "_stamps": stamps, "_extra": extra or None}
        if live[-1] in full and all(name[0] == "@" and mark.endswith(stamp(live[-1])) for name, mark in stamps.items()):
            row["_stamps"] = None
    row |= {"_oldest": upserts[0]["version"]} if upserts and kind["parent"] else {}
    row |= {"_deleted_version": deletes[-1]["version"], "_deleted_event": deletes[-1]["id"]} if deletes else {}
    return {name: value for name, value in row.items() if value is not None}


def settle(kind, name, live, full):
    """The value of one column and the stamps that tell its origin."""
    rule, having = kind["columns"].get(name, ("newest",))[0], [event for event in live if name in event["data"]]
    if rule in ("min", "max"):
        values = [event["data"][name] for event in having if event["data"][name] is not None]
        return {"min": min, "max": max}[rule](values, default=None), {}
    ranks = {id(event): str(int(event["data"].get(kind["state"]) in kind["terminal"])) for event in live}
    marks = {ranks[id(event)] * (rule == "state") + stamp(event): event for event in live}
    choose, is_known = min if rule == "first" else max, name in kind["columns"]
    own = choose(mark for mark, event in marks.items() if event in having)
    base = {BASES[rule]: choose(mark for mark, event in marks.items() if event in full)} if full else {}
    return marks[own]["data"][name], base if is_known and own in base.values() else base | {"+" * (not is_known) + name: own}


def stamp(event):
    return f"{event['version']:016x}{event['id'].replace('-', '')}"
