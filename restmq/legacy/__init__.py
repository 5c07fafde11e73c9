"""``restmq import-legacy``: takes over what a RestMQ of 2010-2015 left in its Redis database."""
