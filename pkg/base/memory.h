/* Keeping a long-lived program small. */
#pragma once

/* Gives back to the system what the program does not need while it idles: heap that bursts have left behind, and the
 * pages of programs and libraries that only starting up needed. What is needed after all comes back from the page
 * cache at its first use. Takes about a millisecond; thread-safe. */
void memory_settle(void);
/* Has a thread call memory_settle when the program has started, and from time to time. Once, early in main: it also
 * limits the allocator to few arenas, since with many threads that do little each of them would get its own. */
void memory_keep_small(void);
