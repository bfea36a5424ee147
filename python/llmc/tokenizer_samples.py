"""Short texts in many scripts, written for tokenizer_report: the same everyday paragraph, or nearly,
in each language, so that their tokens can be compared; and code, numbers and signs."""

SAMPLES = {
    "English": (
        "The library opens at nine in the morning. Bring your card, choose a book and read it by "
        "the window; if you can't finish it today, you may take it home for three weeks. Children "
        "don't pay anything, and on Saturdays someone reads stories aloud."),
    "German": (
        "Die Bücherei öffnet um neun Uhr morgens. Bringen Sie Ihren Ausweis mit, wählen Sie ein "
        "Buch und lesen Sie es am Fenster; wenn Sie heute nicht fertig werden, dürfen Sie es für "
        "drei Wochen nach Hause mitnehmen. Kinder bezahlen nichts."),
    "French": (
        "La bibliothèque ouvre à neuf heures du matin. Apportez votre carte, choisissez un livre "
        "et lisez-le près de la fenêtre ; si vous n'avez pas fini aujourd'hui, vous pouvez "
        "l'emporter chez vous pendant trois semaines."),
    "Russian": (
        "Библиотека открывается в девять часов утра. Возьмите с собой карточку, выберите книгу и "
        "читайте у окна; если сегодня не успеете, можно взять её домой на три недели."),
    "Greek": (
        "Η βιβλιοθήκη ανοίγει στις εννέα το πρωί. Φέρτε την κάρτα σας, διαλέξτε ένα βιβλίο και "
        "διαβάστε το δίπλα στο παράθυρο."),
    "Arabic": (
        "تفتح المكتبة في الساعة التاسعة صباحا. أحضر بطاقتك واختر كتابا واقرأه بجانب النافذة، "
        "ويمكنك أن تأخذه إلى البيت لمدة ثلاثة أسابيع."),
    "Hebrew": (
        "הספרייה נפתחת בתשע בבוקר. הביאו את הכרטיס שלכם, בחרו ספר וקראו אותו ליד החלון."),
    "Hindi": (
        "पुस्तकालय सुबह नौ बजे खुलता है। अपना कार्ड लाइए, एक किताब चुनिए और खिड़की के पास बैठकर पढ़िए; "
        "आप उसे तीन हफ़्ते के लिए घर भी ले जा सकते हैं।"),
    "Thai": "ห้องสมุดเปิดเวลาเก้าโมงเช้า นำบัตรของคุณมา เลือกหนังสือหนึ่งเล่มแล้วอ่านข้างหน้าต่าง",
    "Korean": (
        "도서관은 아침 아홉 시에 문을 엽니다. 카드를 가져와서 책을 한 권 고르고 창가에서 읽으세요. 오늘 다 읽지 "
        "못하면 삼 주 동안 집에 빌려 갈 수 있습니다. 어린이는 돈을 내지 않습니다."),
    "Chinese": (
        "图书馆早上九点开门。请带上您的借书证，选一本书，坐在窗边慢慢读；如果今天读不完，可以借回家三个星期。"),
    "Japanese": (
        "図書館は朝九時に開きます。カードを持ってきて、本を一冊選び、窓のそばで読んでください。今日中に読み終わら"
        "なければ、三週間借りることができます。"),
    "emoji": "Done 👍 see you 🕘 at the 📚 🏛️! 👩🏽‍🏫👨‍👩‍👧‍👦 🎉🎉🎉 🇰🇷🇩🇪 ❤️‍🔥",
    "Python": (
        "def mean(values: list[float], default: float = 0.0) -> float:\n"
        '    """The arithmetic mean, or the default of no values."""\n'
        "    total, count = 0.0, 0\n"
        "    for value in values:\n"
        "        if value != value:          # not a number\n"
        "            continue\n"
        "        total += value\n"
        "        count += 1\n"
        "    return total / count if count else default\n"),
    "C": (
        "static int64_t find(const int32_t *a, int64_t n, int32_t key)\n{\n"
        "    int64_t low = 0, high = n;\n"
        "    while (low < high) {\n"
        "        const int64_t middle = low + (high - low) / 2;\n"
        "        if (a[middle] < key) low = middle + 1;\n"
        "        else high = middle;\n"
        "    }\n"
        "    return low < n && a[low] == key ? low : -1;\n}\n"),
    "JSON": (
        '{"id": 1024, "name": "window seat", "free": true, "tags": ["quiet", "light"],\n'
        ' "hours": {"open": "09:00", "close": "18:30"}, "price": null}\n'),
    "numbers": (
        "In 2024 there were 1,284,307 visits, 3.7% more than in 2023; 12 + 345 = 357, "
        "6789 * 10 = 67890, 2^31 - 1 = 2147483647, pi = 3.14159265, 0x7f3a, 1e-9, 18:45:07."),
}
