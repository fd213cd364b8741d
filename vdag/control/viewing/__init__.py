"""Pictures for people who look on, on their way from a job to a browser.

jobs.live      what a job sees, as JPEG or H.264, for each who looks on
pace           which of the two, by what the way to him takes
pictures       replies: for browsers, and for a cloud that shows them to its own viewers
pieces         how pictures go to a cloud; `multipart`: how nodes of other makes send them
feed           the cloud's end: one way to the node, any number of viewers
"""
