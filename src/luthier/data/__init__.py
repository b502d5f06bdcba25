"""Rows in, Dataset out.

    connectors/   files of any common format, read as bounded blocks with the line of every row
    shapes        which layout the rows have (chat messages, Alpaca, ShareGPT, prompt/completion, labelled text, text)
    mapping       rows of any layout -> records, or a reason why not
    records       the one form of a row, as an Arrow schema, and its stable id
    rules/        pure functions on Arrow batches that clean, choose and weigh
    engines/      what runs the rules; `local` streams, spills, and hands only hashes to DuckDB
    split         train, validation, test: stable under order and growth, without leaks
    prepare       the stage that puts these together and reports what each did
    propose       a recipe's data half, guessed from a file, with reasons
    lineage       from a record id back to its line

Importing this package, `spec` or `task` loads neither Arrow nor Polars nor DuckDB.
"""
