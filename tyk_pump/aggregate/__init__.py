"""Records -> counters per organisation and hour or minute; knows no back end.

`Aggregator.aggregate(records)` gives one `Aggregate` per `Key`: its total and a
`Counter` for each `Place` (dimension and key) that the records touch.
"""
