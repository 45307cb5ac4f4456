/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once

/* The length of the sequence at p, 1 to 4 bytes, none of them at or behind end (p < end); 0 when it is none. */
unsigned utf8_len(const char *p, const char *end);
