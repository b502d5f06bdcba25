"""What becomes of a released model once people ask it: is it still asked what it was made for, does it still answer as it was
measured, and is it still right?

    reference   rows that the model was measured on ──▶ views ──▶ how each view is spread          (reference.py, once a release)
    window      what was asked and answered in a day ──▶ the same views                             (rows.py, views.py)
    look        window against reference, every day: bets whose winnings would be luck once in 100 days   (sequential.py, look.py)
    report      one window against the reference, every test by its name                            (two_samples.py, tested.py)
    alert       told once an episode, with the rows that caused it, masked                          (alerts.py, webhook.py, mail.py)
    retrain     whether it is time, and which rows a new run learns from                            (retrain.py)

Nothing here knows a model's weights, and nothing loads torch. What is kept between looks is in the ledger. Not here: the verbs and
the command that cron calls (app/monitoring), and what puts a new release in the place of an old one.
"""
