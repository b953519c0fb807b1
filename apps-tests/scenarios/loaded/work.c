/* Something for a compiler to do: many functions that inline into each other. */
#include <stdio.h>

#define ONE(n) static unsigned f##n(unsigned x) { for (unsigned i = 0; i < (x & 7); i++) x = x * 31 + (n ^ i); return x; }
#define TEN(n) ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) ONE(n##8) ONE(n##9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9)

#define CALL(n) x = f##n(x);
#define CALLS(n) CALL(n##0) CALL(n##1) CALL(n##2) CALL(n##3) CALL(n##4) CALL(n##5) CALL(n##6) CALL(n##7) CALL(n##8) CALL(n##9)

int main(void)
{
	unsigned x = 1;

	for (int i = 0; i < 1000; i++) {
		CALLS(1) CALLS(2) CALLS(3) CALLS(4) CALLS(5) CALLS(6) CALLS(7) CALLS(8) CALLS(9)
	}
	printf("%u\n", x);
	return 0;
}
