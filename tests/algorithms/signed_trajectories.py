"""Trajectories written as the signs of their actions' rewards."""

from cream.algorithms.trajectories import Action


def trajectory(signs):
    """Actions whose rewards are the signs: a solution is right or wrong, a verdict true or not."""
    actions, judged = [], False
    for place, sign in enumerate(signs):
        good = sign == "+"
        if place % 2 == 0:
            judged = good
            actions.append(Action("solve", 0, place + 1, "ok", "7", None, good))
        else:
            verdict = judged if good else not judged
            actions.append(Action("verify", place, place + 1, "ok", None, verdict, good))
    return actions


FIVE = ("-+++", "++", "--", "+--+", "-+-+++")
"""The trajectories of the worked values."""
