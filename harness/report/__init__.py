"""`closedbook report`: one page of what runs and analyses found, with where every number comes from."""
