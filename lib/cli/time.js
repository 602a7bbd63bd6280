"use strict";

// Formats times.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Formats a duration, rounded down to one or two units. */
function duration(ms) {
  if (ms >= 2 * DAY) return `${Math.floor(ms / DAY)} days`;
  const hours = Math.floor(ms / HOUR);
  const minutes = Math.floor((ms % HOUR) / MINUTE);
  if (hours > 0) return minutes > 0 ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes > 0) return `${minutes} min`;
  return `${Math.floor(Math.max(ms, 0) / SECOND)} s`;
}

/** Formats a time relative to now. */
function distance(at, now) {
  return at > now ? `in ${duration(at - now)}` : `${duration(now - at)} ago`;
}

const twoDigits = (number) => String(number).padStart(2, "0");

/** Formats the time of day, with the date if it is more than a day away. */
function timeOfDay(at, now) {
  const date = new Date(at);
  const time = `${twoDigits(date.getHours())}:${twoDigits(date.getMinutes())}`;
  if (Math.abs(at - now) < DAY) return time;
  return `${date.getFullYear()}-${twoDigits(date.getMonth() + 1)}-${twoDigits(date.getDate())} ${time}`;
}

/** Formats the remaining minutes and seconds. */
function countdown(ms) {
  const seconds = Math.ceil(Math.max(ms, 0) / SECOND);
  return `${Math.floor(seconds / 60)}:${twoDigits(seconds % 60)}`;
}

module.exports = { countdown, distance, duration, timeOfDay };
