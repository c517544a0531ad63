//! Schedules: cron expressions, time zones and the ticks they give. Pure: `now` is passed in.
