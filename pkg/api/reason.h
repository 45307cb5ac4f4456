/* The reasons that a Status may give (meta/v1, StatusReason). */
#pragma once

/* The constant of that text, which lives as long as the program does (struct err keeps such); NULL when there is none. */
const char *api_reason(const char *text);
