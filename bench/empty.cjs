"use strict";

module.exports = function plugin() {};
