"""Pictures of the chart's Grafana dashboards, where no Grafana is: every panel's queries, evaluated by Prometheus' own
engine over series that operator, waker, workers and engine really export, drawn by matplotlib.

    story        how those series go over three hours: invented, so that each panel has something to show
    evaluate     what each panel's queries find in them, by promtool
    draw         the pictures (in an environment of its own, with matplotlib)
"""
