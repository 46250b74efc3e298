"""How predictions are judged: functions of arrays and a table, plots and the report."""
